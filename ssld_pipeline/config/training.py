"""A node of the graph of trainings: one network, what it starts from, what it learns from, and how."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.config.recipe import RecipeSettings, written
from ssld_pipeline.config.student import StudentConfig
from ssld_pipeline.terms.divergence import SymmetricKl
from ssld_pipeline.terms.registry import AnyTerm

LOSSES = ("js", "symmetric_kl", "soft_ce", "kl", "ce")
"""What the key `loss` may name: the short form of an objective of one term."""

_FIRST_SETTINGS = frozenset(("objective", "teacher"))


class TrainingConfig(RecipeSettings):
    """One training. `loss` and `temperature` are the short form of an objective of one term."""

    preset: str | None = None
    """Take the values of a published recipe (`ssld presets` lists them); other keys of the training win."""
    student: StudentConfig | None = None
    """The network. null: that of the training it starts from (`init`), or the top-level `student`."""
    init: str | None = None
    """Whose weights it starts from: another training, or a weights file (a name with / or .). null: student.weights, or
    from scratch."""
    head: Literal["auto", "keep", "new"] = "auto"
    """The classifier of the weights it starts from. keep: train it further. new: start it at zero. auto: keep it
    where it has as many classes as the run."""
    data: str = "manifest"
    """manifest: labelled and mined images. labeled: the labelled images. Or the name of one labelled input."""
    teacher: str | None = "teacher"
    """teacher: the top-level `teacher`, which sees the very images that the student sees. A training: its finished
    model. stored: no network; the student sees the views that the label stage stored (`label.views`) and learns from
    their soft labels. null: none."""
    teacher_batch_norm: Literal["train", "eval"] = "train"
    """train: the teacher's batch norm uses the statistics of the batch (76.00 against 75.84 top-1 as published). Stored
    labels come from eval, which has to be said."""
    mismatched_views: Literal["refuse", "accept"] = "refuse"
    """With teacher: stored, whether the student may see the views in another size than the teacher did."""
    objective: tuple[AnyTerm, ...] = Field((SymmetricKl(),), min_length=1)
    """Terms whose weighted sum is minimised. Default: symmetric_kl, or hard_ce where there is no teacher."""
    strategy: Literal["distil"] = "distil"
    """distil: the student learns, the teacher stays as it is."""
    together: str | None = None
    """Another training to be trained in one pass with this one: one loader and one teacher for both."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """`loss`, `temperature` and `teacher: online` of earlier configs, and the default without a teacher."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("teacher") == "online":
            data["teacher"] = "teacher"
        loss, temperature = data.pop("loss", None), data.pop("temperature", None)
        if "objective" in data:
            if loss is not None or temperature is not None:
                raise ValueError("objective: loss and temperature are its short form; give one or the other")
            return data
        if loss is not None and loss not in LOSSES:
            raise ValueError(f"loss: must be one of {', '.join(LOSSES)}, got {loss!r}")
        if loss == "ce":
            if data.get("teacher") not in (None, "teacher", "stored"):
                raise ValueError(
                    f"loss: ce learns from labels only, but teacher is {data['teacher']!r}; set teacher: null, or "
                    f"give an objective with a term for each"
                )
            # Earlier configs accepted a teacher here and did not use it.
            data["teacher"] = None
        if data.get("teacher", "teacher") is None:
            if loss not in (None, "ce"):
                raise ValueError(f"loss: {loss} learns from a teacher, but teacher is null; set loss: ce")
            data["objective"] = [{"term": "hard_ce", "rows": "all"}]
        elif loss is not None or temperature is not None:
            softened = {} if temperature is None else {"temperature": temperature}
            data["objective"] = [{"term": loss or "symmetric_kl", **softened}]
        return data

    @model_validator(mode="after")
    def _teacher_and_objective_agree(self) -> Self:
        wanting = [term.name for term in self.objective if term.needs_teacher]
        if wanting and self.teacher is None:
            raise ValueError(f"objective: {', '.join(wanting)} needs a teacher, but teacher is null")
        if not wanting and self.teacher is not None:
            raise ValueError("objective: no term uses the teacher; set teacher: null")
        if self.norm_batch is not None and self.batch_size % self.norm_batch:
            raise ValueError(f"norm_batch: {self.norm_batch} does not divide batch_size, {self.batch_size}")
        if self.init is not None and self.student is not None and self.student.weights is not None:
            raise ValueError("init: student.weights says what it starts from, too; give one of them")
        return self

    @property
    def replays(self) -> bool:
        """Whether the student learns from stored views in place of a teacher."""
        return self.teacher == "stored"

    @property
    def init_file(self) -> str | None:
        """The weights file that ``init`` names."""
        return self.init if self.init is not None and is_file(self.init) else None

    @property
    def init_node(self) -> str | None:
        """The training that ``init`` names."""
        return self.init if self.init is not None and not is_file(self.init) else None

    @property
    def teacher_node(self) -> str | None:
        """The training whose model teaches."""
        return self.teacher if self.teacher not in (None, "teacher", "stored") else None

    @property
    def learns_labels_only(self) -> bool:
        """Whether an image without a class has nothing to teach it."""
        return self.teacher is None

    def of_fingerprint(self) -> dict[str, Any]:
        """The settings that can change the weights, apart from networks and data."""
        values: dict[str, Any] = {"objective": [term.of_fingerprint() for term in self.objective]}
        values["teacher"] = "stored" if self.replays else self.teacher and "online"
        if values["teacher"] == "online":
            values["teacher_batch_norm"] = self.teacher_batch_norm
        if self.init is not None or (self.student is not None and self.student.weights is not None):
            values["head"] = self.head
        return self.recipe_of_fingerprint() | written(type(self), values, _FIRST_SETTINGS)


def is_file(init: str) -> bool:
    """Whether the value of ``init`` is a path or an address, not the name of a training."""
    return "/" in init or "." in init
