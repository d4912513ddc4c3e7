"""A training run described completely: what `fit`, alone or in many processes, needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.terms.term import Term
from ssld_pipeline.training.recipe import Recipe

MODEL_FILE = "student.safetensors"
MODEL_FILES = (MODEL_FILE, "config.json", "metrics.jsonl")
"""What a training leaves in its folder."""


@dataclass(frozen=True)
class StoredTeacher:
    """Soft labels in place of a teacher. ``tables``: URIs of parts of soft_labels; of them the views 1 .. ``num_views``
    and the first ``num_kept`` classes are used. ``recipe``: how the views were made."""

    tables: tuple[str, ...]
    num_views: int
    num_kept: int
    recipe: Recipe


@dataclass(frozen=True)
class OnlineTeacher:
    """A network that sees what the student sees. ``image_size``: side in pixels of its view of an image.
    ``batch_norm``: train has it compute with the statistics of its norm batch."""

    spec: ModelSpec
    image_size: int
    batch_norm: Literal["train", "eval"] = "train"


@dataclass(frozen=True)
class TrainJob:
    """``tables`` and ``validation`` are URIs of Parquet parts that hold at least the columns image_id, role, uri,
    offset, size_bytes and class_id; of ``tables`` only rows whose role is in ``roles`` are used, of ``validation``
    only rows of role protected with a class_id.

    ``stage``: its name; ``section``: where its settings are in the config, for messages."""

    stage: str
    section: str
    student: ModelSpec
    settings: RecipeSettings
    objective: tuple[Term, ...]
    tables: tuple[str, ...]
    roles: tuple[str, ...]
    validation: tuple[str, ...] = ()
    teacher: OnlineTeacher | StoredTeacher | None = None
    class_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """image_ids that are not trained on, though the tables have them."""
    left_out_file: str | None = None
    """More of them: the column image_id of a Parquet file on this machine."""
    strategy: str = "distil"
    """In which order networks learn, by its name in ``training.strategies.registry``."""
    licence: str | None = None
    """Of the weights that the result is made with, as an SPDX name."""

    @property
    def labelled_only(self) -> bool:
        """Whether images without a class are left out, as nothing can be learnt from them."""
        return self.teacher is None
