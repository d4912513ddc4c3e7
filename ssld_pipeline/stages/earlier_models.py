"""Models that earlier versions of this program made: their recorded settings, as this version would record them.

Such a model is up to date where the translation equals what is wanted. What a repair changed is not translated, so that
the models it concerns are made again:

* An online teacher saw images of the student's size; now it sees images of its own size.
* ``weight_decay_norm: false`` spared the classifier's bias, too; now only normalisation layers.
* ``student.weights`` always lost their classifier; now it is kept where it has as many classes as the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.config.training import TrainingConfig

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig

REPAIRED = {
    "config.training.teacher_sees": "the teacher now sees its own image size, before it was given the student's",
    "config.training.spared": "weight_decay_norm: false now spares normalisation layers only, before the classifier's "
    "bias, too",
    "config.training.head": "head: auto now keeps a classifier that has as many classes as the run, before it was lost",
}
"""By the name of a setting that differs: the repair that makes a model of an earlier version stale."""

_OLD_SECTION = "train"


def modernise(
    name: str, config: RunConfig, num_classes: int, committed: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any] | None:
    """``committed``: the payload of a model's fingerprint; ``figures``: of its record. None for a present one."""
    before = committed.get("config", {})
    if not isinstance(before, Mapping) or _OLD_SECTION not in before or "training" in before:
        return None
    old = dict(before[_OLD_SECTION])
    if images_per_process := figures.get("images_per_process"):
        old["norm_batch"] = images_per_process
    try:
        node = TrainingConfig.model_validate(old)
    except ValidationError:  # older still, with settings that are gone: it is made again, as any other
        return None
    training = node.of_fingerprint()
    if not node.weight_decay_norm:
        training.pop("spared", None)
    if name == "baseline":
        training.pop("epochs", None)
    if name != "finetune" and _lost_another_classifier(config, name, num_classes):
        training["head"] = "new"
    found = {"training": training, "student": before["student"]}
    if node.replays:
        found["label"] = before["label"]
    if node.teacher is not None:
        found["teacher"] = before["teacher"]
    present = {**committed, "config": found}
    if node.teacher is None and "artifacts" in present:
        present["artifacts"] = {k: v for k, v in present["artifacts"].items() if k != "fit_teacher"}
    if node.teacher is None and "weights" in present:
        present["weights"] = {k: v for k, v in present["weights"].items() if not k.startswith("teacher")}
    return {key: value for key, value in present.items() if value or key not in ("artifacts", "weights")}


def modernise_fit(
    config: RunConfig, num_classes: int, committed: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any] | None:
    """As ``modernise``, for fit_teacher. Its spared bias counts as no change: all labels would be made again for it."""
    before = committed.get("config", {})
    if "loss" not in before.get("fit", {}):
        return None
    old = {key: value for key, value in before["fit"].items() if key in RecipeSettings.model_fields}
    if images_per_process := figures.get("images_per_process"):
        old["norm_batch"] = images_per_process
    return {**committed, "config": {**before, "fit": RecipeSettings.model_validate(old).recipe_of_fingerprint()}}


def _lost_another_classifier(config: RunConfig, name: str, num_classes: int) -> bool:
    """Whether the weights it started from lost a classifier that head: auto would keep: it has as many classes as the
    run. Earlier versions always did what head: new does now."""
    network = config.network_of(name)
    if network is None or network.weights is None:
        return False
    if config.nodes[name].head == "new":
        return True
    from ssld_pipeline.models.build import classes_of_weights

    return classes_of_weights(network.model, network.model_args, network.weights) == num_classes
