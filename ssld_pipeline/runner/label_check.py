"""Check that the labels of each input name classes of the run, before anything is computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.labels import ClassList, Label, read_counts
from ssld_pipeline.rejects import are_too_many

if TYPE_CHECKING:
    from ssld_pipeline.config.inputs import InputConfig
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.survey import Survey
    from ssld_pipeline.store.part import Part
    from ssld_pipeline.store.workspace import Workspace

_ROLES = (*TRAINED_ON_ROLES, "protected")
_EXAMPLES = 3
_EXPECTED = {
    "folder": "a folder of images for each class",
    "tar": "a .cls or .json file for each image, or a folder or a tar for each class",
    "parquet": "a column called label, class or class_id, or a ClassLabel of Hugging Face",
    "list": "lines of 'path label'",
}


@dataclass
class InputLabels:
    """What is known of the labels of one input.

    ``num_images``: in the catalog, or rejected for their label. ``num_of_first``: of class 0. ``unknown``: labels that
    name no class, with the number of images. ``num_unknown``: these images, and those without a label where one is
    needed. ``example``: the image_id of one of them.
    """

    name: str
    role: str
    item: InputConfig
    num_images: int = 0
    num_with_class: int = 0
    num_of_first: int = 0
    num_unknown: int = 0
    unknown: Counter[Label] = field(default_factory=Counter)
    example: str = ""

    @property
    def num_without_class(self) -> int:
        return self.num_images - self.num_with_class

    @property
    def where(self) -> str:
        setting = "teacher.fit.data" if self.role == "teacher" else f"inputs.{self.role}"
        return f"{setting} ({self.name}, {self.item.uri})"

    @property
    def needs_labels(self) -> bool:
        return self.role in TRAINED_ON_ROLES

    @property
    def is_labelled(self) -> bool:
        """Whether anything labels its images. A single folder around all of them, such as ``images``, does not."""
        of_one_folder = len(self.unknown) == 1 and next(iter(self.unknown)).kind == "folder"
        return self.num_with_class > 0 or (bool(self.unknown) and not of_one_folder)

    def add(self, detail: str, num_rejects: int, example: str) -> None:
        """Rejects of one detail, for example ``example``."""
        found = read_counts(detail)
        for label, count in found.by_label.items():
            self.unknown[label] += count * num_rejects
        self.num_unknown += found.num_images * num_rejects
        self.num_images += num_rejects if self.needs_labels else 0  # protected images are in the catalog
        self.example = self.example or found.example or example

    def examples(self, classes: Sequence[str]) -> str:
        """The commonest labels that name no class, with the nearest classes."""
        known = ClassList(classes)
        most = self.unknown.most_common(_EXAMPLES)
        shown = [f"{label} of {count} images{known.hint(label)}" for label, count in most] or ["no label"]
        return f"{', '.join(shown)}, for example {self.example}"


def count_labels(workspace: Workspace, config: RunConfig) -> list[InputLabels]:
    """Of each input that may have labels, in the order of the config, from the committed catalog and its rejects."""
    found = {n: InputLabels(n, role, item) for n, (role, item) in config.named_inputs().items() if role in _ROLES}
    with workspace.connect("catalog", only=_parts_of(workspace, "catalog", found)) as tables:
        query = """SELECT split_part(part, '/', 1), count(*), count(class_id), count_if(class_id = 0)
                   FROM catalog GROUP BY 1"""
        for name, *counts in tables.execute(query).fetchall():
            own = found[name]
            own.num_images, own.num_with_class, own.num_of_first = counts
    with workspace.connect("rejects", only=_parts_of(workspace, "rejects", found)) as tables:
        query = """SELECT split_part(part, '/', 1), detail, count(*), min(image_id) FROM rejects
                   WHERE stage = 'catalog' AND reason = 'unknown_class' GROUP BY ALL ORDER BY ALL"""
        for name, *reject in tables.execute(query).fetchall():
            found[name].add(*reject)
    return list(found.values())


def _parts_of(workspace: Workspace, table: str, inputs: Mapping[str, object]) -> list[Part]:
    parts = workspace.tables[table].parts().values()
    return [part for part in parts if part.unit[0] in (part.name, "catalog") and part.name.split("/", 1)[0] in inputs]


def figures(inputs: Sequence[InputLabels], survey: Survey) -> dict[str, int]:
    """For those who watch a run, by input: images without a class, and folders that are read as numbers of classes."""
    found = {f"{i.name} images without a class": i.num_without_class for i in inputs if i.num_without_class}
    numbered = {s.input_name for s in survey.shards if s.format == "folder" and s.labels == "numbers"}
    return found | {
        f"{i.name} folders read as class numbers": len(survey.classes) for i in inputs if i.name in numbered
    }


def require_labels(config: RunConfig, classes: Sequence[str], inputs: Sequence[InputLabels]) -> None:
    """UserError for an input whose labels name no class, seem to be counted from 1, or name none too often; and for a
    labelled one without labels. A protected input without any label guards, and is not evaluated."""
    for labels in inputs:
        if labels.num_images:
            _refuse_counting_from_one(labels, classes)
            _refuse_other_classes(labels, classes)
            _refuse_many_unknown(labels, classes, config.catalog.max_unknown_labels)


def _refuse_counting_from_one(labels: InputLabels, classes: Sequence[str]) -> None:
    known, num_classes = ClassList(classes), len(classes)
    num_last = sum(count for label, count in labels.unknown.items() if known.is_one_too_many(label))
    if num_last and not labels.num_of_first and labels.item.labels == "auto":
        raise UserError(
            f"{labels.where}: the labels seem to be counted from 1, since none is 0 and {num_last} are {num_classes}, "
            f"but the run's {num_classes} classes are counted from 0. Set 'labels: numbers_from_1' for this input, or "
            "write numbers from 0 or names of classes"
        )


def _refuse_other_classes(labels: InputLabels, classes: Sequence[str]) -> None:
    if labels.num_with_class or not (labels.needs_labels or labels.is_labelled):
        return
    start = f"{labels.where}: none of the {labels.num_images} images has a class of the run"
    if not labels.unknown:
        raise UserError(f"{start}, since none has a label. Expected {_EXPECTED[labels.item.format]}; add labels")
    known = ", ".join(classes[:_EXAMPLES]) + (", ..." if len(classes) > _EXAMPLES else "")
    guards = "" if labels.needs_labels else ". If the input is not labelled and only guards, set 'labels: none'"
    raise UserError(
        f"{start}: {labels.examples(classes)}. The run's {len(classes)} classes are {known}. Correct the labels or the "
        "class list; if the labels are numbers of classes, set 'labels: numbers' (counted from 0) or "
        f"'labels: numbers_from_1' for this input{guards}"
    )


def _refuse_many_unknown(labels: InputLabels, classes: Sequence[str], limit: float) -> None:
    if labels.num_with_class and are_too_many(labels.num_unknown, 0, limit * labels.num_images):
        raise UserError(
            f"{labels.where}: {labels.num_unknown} of {labels.num_images} images have a label that names no class of "
            f"the run, more than catalog.max_unknown_labels ({limit}) allows: {labels.examples(classes)}. Correct "
            "the labels or the class list, take these images out of the input, or raise catalog.max_unknown_labels"
        )
