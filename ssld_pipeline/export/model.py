"""Results for use elsewhere: a model as a folder, a table as one file, the manifest as a training set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import TABLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.export import removals
from ssld_pipeline.export.images import PACKED_FORMATS, Packing, pack, write_paddleclas
from ssld_pipeline.runner.class_guard import require_same_classes
from ssld_pipeline.runner.survey import class_names
from ssld_pipeline.sql_text import literal
from ssld_pipeline.store import files
from ssld_pipeline.store.artifacts import Record
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import torch

_MODEL_FORMATS = ("timm", "pt2")
_TABLE_FORMATS = ("csv", "parquet")
_MANIFEST_FORMATS = (*_TABLE_FORMATS, "paddleclas", *PACKED_FORMATS)

WEIGHTS_FILE = "model.safetensors"
"""Of an exported model."""


def export_from(
    config: RunConfig, what: str, out: Path, format: str | None, packing: Packing | None = None
) -> Iterator[Path | str]:
    """Each file as it is written, and lines a person should read. ``packing``: of the formats that hold the images.

    UserError for an unknown name or format, when there is nothing to export yet, where the labels were made with
    another class list, and for a place that is no local path.
    """
    if re.match(r"\w+:/", str(out)):  # a Path has one slash where the address had two
        raise UserError(f"export --out {out}: expected a local path; export there, then copy to the object store")
    models = _models(config)
    if what in (*models, "manifest", "soft_labels"):
        require_same_classes(config, Workspace(config.workspace))
    if what in models:
        yield from _export_model(config, what, out, _one_of(format, _MODEL_FORMATS))
    elif what in TABLES:
        yield from _export_rows(config, what, out, format, packing)
    elif what == "removals":
        yield removals.write_removals(Workspace(config.workspace), out, _one_of(format, removals.FORMATS))
    else:
        raise UserError(
            f"export {what}: neither a model ({', '.join(models)}) nor a table ({', '.join(TABLES)}) nor removals"
        )


def _models(config: RunConfig) -> tuple[str, ...]:
    """Those of the config, then others that are in the workspace."""
    fit = ("fit_teacher",) if config.teacher.fit else ()
    return tuple(dict.fromkeys([*fit, *config.ordered_nodes(), *Workspace(config.workspace).models()]))


def _export_rows(
    config: RunConfig, name: str, out: Path, format: str | None, packing: Packing | None
) -> Iterator[Path | str]:
    workspace = Workspace(config.workspace)
    chosen = _one_of(format, _MANIFEST_FORMATS if name == "manifest" else _TABLE_FORMATS)
    if chosen == "paddleclas":
        yield write_paddleclas(workspace, out)
    elif chosen in PACKED_FORMATS:
        yield from pack(workspace, class_names(config), out, chosen, packing or Packing())
    else:
        yield _export_table(workspace, name, out, chosen)


def _one_of(given: str | None, known: tuple[str, ...]) -> str:
    if given is not None and given not in known:
        raise UserError(f"export --format {given}: expected {' or '.join(known)}")
    return given or known[0]


def _export_table(workspace: Workspace, name: str, out: Path, format: str) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    options = "HEADER, DELIMITER ','" if format == "csv" else "FORMAT parquet, COMPRESSION zstd"
    with workspace.connect(name, is_checked=True) as tables:
        tables.execute(f'COPY (SELECT * FROM "{name}" ORDER BY ALL) TO {literal(str(out))} ({options})')
    return out


def _export_model(config: RunConfig, stage: str, out: Path, format: str) -> list[Path]:
    """timm: weights, config.json, provenance.json. pt2: also a torch.export program, checked against the model."""
    artifact = Workspace(config.workspace).artifact(stage)
    record = artifact.record()
    if record is None:
        raise UserError(f"export {stage}: no such model yet; make it with: ssld run CONFIG --until {stage}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for source, target in (("student.safetensors", WEIGHTS_FILE), ("config.json", "config.json")):
        files.write_bytes(str(out / target), artifact.read(record, source))
        written.append(out / target)
    card = files.read_json(str(out / "config.json"))
    recipe = config.recipes().get(stage)
    if recipe and card["pretrained_cfg"]["crop_pct"] != recipe.crop_pct:  # how a model is seen is no part of it
        card["pretrained_cfg"]["crop_pct"] = recipe.crop_pct
        files.write_json(str(out / "config.json"), card)
    provenance = {
        "stage": stage,
        "fingerprint": str(record.fingerprint),
        "files": record.files,
        "settings": record.settings,
        "figures": record.figures,
        "teacher": _teacher_of(record, card),
    }
    files.write_json(str(out / "provenance.json"), provenance)
    written.append(out / "provenance.json")
    if format == "pt2":
        written.append(_export_program(record, card, out))
    return written


def _teacher_of(record: Record, card: dict[str, Any]) -> dict[str, Any] | None:
    """The networks the model was made with, whatever the config says today, and their licence; null: none."""
    teacher = record.settings["config"].get("teacher")
    if teacher is None:
        return None
    names = [network["model"] for network in (teacher, *teacher.get("more", ()))]
    return {"model": " + ".join(names), "licence": card["pretrained_cfg"]["license"]}


def _export_program(record: Record, card: dict[str, Any], out: Path) -> Path:
    """``model.pt2``: float32 [N,3,S,S] of the card's size, normalised, to logits [N,C]; refused when it differs from
    the model."""
    import torch

    from ssld_pipeline.models.build import build
    from ssld_pipeline.models.spec import ModelSpec

    made_with = record.settings["config"]
    network = made_with["student"] if "student" in made_with else made_with["teacher"]
    weights = str(out / WEIGHTS_FILE)
    model = build(ModelSpec(network["model"], card["num_classes"], network["model_args"], weights)).eval()
    images = torch.randn(2, *card["pretrained_cfg"]["input_size"], generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    _check_same(model, program.module(), images)
    torch.export.save(program, out / "model.pt2")
    return out / "model.pt2"


def _check_same(model: torch.nn.Module, exported: torch.nn.Module, images: torch.Tensor) -> None:
    import torch

    with torch.inference_mode():
        difference = (model(images) - exported(images)).abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(f"the exported program differs from the model by {difference} in its logits")
