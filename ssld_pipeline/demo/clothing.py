"""The clothing photographs as an SSLD problem with a known truth: few labels, a pool, copies of protected images.

Source: alexeygrigorev/clothing-dataset and clothing-dataset-small (CC0), laid out as ``train/<class>/``,
``validation/<class>/``, ``test/<class>/`` and ``pool/*.tar``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssld_pipeline.copies.planted.alterations import plant
from ssld_pipeline.demo.copies import KINDS
from ssld_pipeline.demo.encoding import decode_jpeg, write_tar
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.images import encode_jpeg

_PROTECTED = ("validation", "test")
_IMAGES_PER_TAR = 500


@dataclass(frozen=True)
class _Member:
    """One image of a new tar; with a ``kind`` it is a copy of ``path``, else the file itself."""

    path: Path
    kind: str | None = None


def prepare(
    source: Path, folder: Path, seed: int = 0, *, labeled_per_class: int = 30, num_copies: int = 304
) -> dict[str, Any]:
    """The truth about the problem written to ``folder``: ``labeled/<class>/``, ``validation/<class>/``,
    ``test/<class>/`` and ``pool/*.tar`` with neutral names.

    The pool is the tars of ``source``, the images of train that are not labelled, and copies of validation and test
    images, equally many of each kind, mixed among the latter. Truth (also ``folder/truth.json``): ``classes``;
    ``pool``, the class by image_id where it is known; ``copies``, by image_id ``source`` (image_id of the protected
    image, its input named validation or test) and ``kind``. Raises UserError where ``source`` is not laid out so, or
    ``folder`` holds something already.
    """
    _require(source, folder)
    rng = np.random.default_rng(seed)
    rest = _choose_labeled(source / "train", folder / "labeled", labeled_per_class, rng)
    for name in (*_PROTECTED, "pool"):
        shutil.copytree(source / name, folder / name, copy_function=shutil.copyfile)
    members = rest + _choose_copies(source, num_copies, rng)
    placed = dict(_write_tars(folder / "pool", [members[i] for i in rng.permutation(len(members))], rng))
    truth = {
        "classes": sorted(p.name for p in (folder / "labeled").iterdir()),
        "pool": {image_id: member.path.parent.name for image_id, member in placed.items()},
        "copies": {
            image_id: {"source": member.path.relative_to(source).as_posix(), "kind": member.kind}
            for image_id, member in placed.items()
            if member.kind is not None
        },
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return truth


def _require(source: Path, folder: Path) -> None:
    missing = [name for name in ("train", *_PROTECTED, "pool") if not (source / name).is_dir()]
    if missing:
        raise UserError(
            f"clothing images: {source} must hold train, validation, test and pool; missing: {', '.join(missing)}"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"clothing images: {folder} is not empty; name another folder, or remove it")


def _choose_labeled(train: Path, labeled: Path, per_class: int, rng: np.random.Generator) -> list[_Member]:
    """Copies ``per_class`` images of each class to ``labeled``; returns the others."""
    rest = []
    for source in sorted(p for p in train.iterdir() if p.is_dir()):
        images = sorted(source.iterdir())
        chosen = set(rng.permutation(len(images))[:per_class].tolist())
        (labeled / source.name).mkdir(parents=True)
        for i, path in enumerate(images):
            if i in chosen:
                shutil.copyfile(path, labeled / source.name / path.name)
            else:
                rest.append(_Member(path))
    return rest


def _choose_copies(source: Path, num_copies: int, rng: np.random.Generator) -> list[_Member]:
    protected = sorted(path for name in _PROTECTED for path in (source / name).glob("*/*") if path.is_file())
    chosen = rng.choice(len(protected), num_copies, replace=num_copies > len(protected))
    return [_Member(protected[at], KINDS[i % len(KINDS)]) for i, at in enumerate(chosen)]


def _write_tars(pool: Path, members: list[_Member], rng: np.random.Generator) -> Iterator[tuple[str, _Member]]:
    """Writes ``rest-*.tar`` and yields each image's image_id."""
    names = [f"{n:08x}.jpg" for n in rng.choice(2**32, len(members), replace=False)]
    for number, start in enumerate(range(0, len(members), _IMAGES_PER_TAR)):
        tar = f"rest-{number:03d}.tar"
        inside = list(zip(names, members, strict=True))[start : start + _IMAGES_PER_TAR]
        write_tar(pool / tar, ((name, _encoded(member, rng)) for name, member in inside))
        yield from ((f"pool/{tar}/{name}", member) for name, member in inside)


def _encoded(member: _Member, rng: np.random.Generator) -> bytes:
    data = member.path.read_bytes()
    if member.kind in (None, "exact"):
        return data
    return encode_jpeg(plant(decode_jpeg(data), str(member.kind), rng))
