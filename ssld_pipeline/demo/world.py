"""The demo's world: a drawn SSLD problem with a known truth, the same bytes for the same seed.

Ten classes of textured shapes; a few labelled images, protected images, more labelled images that only the teacher
sees, and a pool without labels in which a third belongs to no class and some images copy protected ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssld_pipeline.copies.planted.alterations import plant
from ssld_pipeline.demo.copies import KINDS
from ssld_pipeline.demo.encoding import decode_jpeg, write_tar
from ssld_pipeline.demo.picture import draw_picture
from ssld_pipeline.demo.shapes import SHAPES
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.images import encode_jpeg

WORLD_VERSION = 1
"""Raise it when the same seed comes to mean other bytes."""

CLASSES = tuple(SHAPES)
_STREAMS = {"train": 0, "teacher": 1, "validation": 2, "pool": 3, "plan": 4, "copies": 5}


@dataclass(frozen=True)
class Recipe:
    """What a world is made of; ``num_pool`` counts all pool images, ``num_copies`` those that copy protected ones.

    ``distractor_share`` is the share in [0,1] of the other pool images that is of no class.
    """

    seed: int = 0
    labeled_per_class: int = 30
    protected_per_class: int = 30
    teacher_per_class: int = 250
    num_pool: int = 3000
    num_copies: int = 114
    distractor_share: float = 0.35
    images_per_shard: int = 500


@dataclass(frozen=True)
class PoolImage:
    """``shape`` is None for a distractor; ``kind`` and ``source`` (index of a protected image) are set for a copy."""

    name: str
    index: int
    shape: str | None
    kind: str | None = None
    source: int = 0


def write_world(folder: Path, *, num_workers: int | None = None, **recipe: Any) -> dict[str, Any]:
    """The truth about the world under ``folder/inputs``, which is drawn unless it lies there already.

    ``recipe`` are fields of ``Recipe``. Writes ``inputs/train/<class>``, ``inputs/teacher/<class>``,
    ``inputs/validation/<class>``, ``inputs/pool/pool-*.tar``, ``inputs/truth.json`` and ``demo.yaml``. The truth:
    ``classes``; ``pool``, the class of each pool image by image_id, null for distractors; ``copies``, the ``source``
    (image_id of the protected image) and ``kind`` of each planted copy. The world appears under its name only when it
    is whole. Raises UserError where ``folder/inputs`` holds something else.
    """
    wanted = Recipe(**recipe)
    inputs, drawing = folder / "inputs", folder / "inputs.drawing"
    truth = _read_truth(inputs)
    if truth is None or not _is_whole(inputs, truth, wanted):
        shutil.rmtree(drawing, ignore_errors=True)
        _draw(drawing, wanted, num_workers or min(8, os.cpu_count() or 1))
        truth = _describe(drawing, wanted)
        (drawing / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
        if inputs.exists():
            shutil.rmtree(inputs)
        drawing.rename(inputs)
        (folder / "demo.yaml").unlink(missing_ok=True)
    if not (folder / "demo.yaml").exists():
        (folder / "demo.yaml").write_text(_packaged_config(), encoding="utf-8")
    return truth


def _packaged_config() -> str:
    return files("ssld_pipeline.demo").joinpath("demo.yaml").read_text(encoding="utf-8")


def _read_truth(inputs: Path) -> dict[str, Any] | None:
    if not inputs.exists():
        return None
    try:
        truth: dict[str, Any] = json.loads((inputs / "truth.json").read_text(encoding="utf-8"))
        return truth
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UserError(
            f"the demo cannot be drawn in {inputs}: something is there that no demo wrote; "
            "name another folder, or move it away"
        ) from None


def _is_whole(inputs: Path, truth: dict[str, Any], wanted: Recipe) -> bool:
    same = truth.get("version") == WORLD_VERSION and truth.get("recipe") == asdict(wanted)
    return same and truth["num_files"] == _count_files(inputs)


def _count_files(inputs: Path) -> int:
    """Files of the world without its truth."""
    return sum(path.is_file() for path in inputs.rglob("*") if path.name != "truth.json")


def plan_pool(recipe: Recipe) -> list[PoolImage]:
    """Every pool image in the order of the tars: class members, distractors and copies, shuffled, names meaningless."""
    rng = np.random.default_rng([recipe.seed, _STREAMS["plan"]])
    num_drawn = recipe.num_pool - recipe.num_copies
    num_distractors = round(recipe.distractor_share * num_drawn)
    shapes = [None] * num_distractors + [CLASSES[i % len(CLASSES)] for i in range(num_drawn - num_distractors)]
    num_protected = recipe.protected_per_class * len(CLASSES)
    sources = rng.choice(num_protected, recipe.num_copies, replace=recipe.num_copies > num_protected)
    names = [f"{n:08x}.jpg" for n in rng.choice(2**32, recipe.num_pool, replace=False)]
    pool = [PoolImage(names[i], i, shape) for i, shape in enumerate(shapes)]
    for i, source in enumerate(int(s) for s in sources):
        shape, kind = CLASSES[source // recipe.protected_per_class], KINDS[i % len(KINDS)]
        pool.append(PoolImage(names[num_drawn + i], num_drawn + i, shape, kind, source))
    return [pool[i] for i in rng.permutation(len(pool))]


def _shards(recipe: Recipe) -> Iterator[tuple[str, list[PoolImage]]]:
    pool = plan_pool(recipe)
    for number, start in enumerate(range(0, len(pool), recipe.images_per_shard)):
        yield f"pool-{number:03d}.tar", pool[start : start + recipe.images_per_shard]


def _describe(inputs: Path, recipe: Recipe) -> dict[str, Any]:
    placed = [(f"pool/{shard}/{image.name}", image) for shard, images in _shards(recipe) for image in images]
    return {
        "version": WORLD_VERSION,
        "recipe": asdict(recipe),
        "num_files": _count_files(inputs),
        "classes": list(CLASSES),
        "pool": {image_id: image.shape for image_id, image in placed},
        "copies": {
            image_id: {"source": f"protected/{_protected_name(recipe, image.source)}", "kind": image.kind}
            for image_id, image in placed
            if image.kind is not None
        },
    }


def _protected_name(recipe: Recipe, index: int) -> str:
    shape = CLASSES[index // recipe.protected_per_class]
    return f"{shape}/{index % recipe.protected_per_class:04d}.jpg"


def _draw(inputs: Path, recipe: Recipe, num_workers: int) -> None:
    """All files, one task per tar and per class folder; a task draws what it needs, so that none waits for another."""
    (inputs / "pool").mkdir(parents=True)
    tasks: list[tuple[Any, ...]] = [
        (_write_shard, inputs / "pool" / name, images, recipe) for name, images in _shards(recipe)
    ]
    sizes = {
        "teacher": recipe.teacher_per_class,
        "train": recipe.labeled_per_class,
        "validation": recipe.protected_per_class,
    }
    tasks += [
        (_write_class, inputs / part / shape, part, shape, size, recipe.seed)
        for part, size in sizes.items()
        for shape in CLASSES
    ]
    if num_workers == 1:
        for task, *arguments in tasks:
            task(*arguments)
        return
    # spawn: forking a process that holds OpenCV's or torch's threads can hang the child.
    with ProcessPoolExecutor(num_workers, get_context("spawn"), cv2.setNumThreads, (1,)) as workers:
        for future in [workers.submit(*task) for task in tasks]:
            future.result()


def _draw_jpeg(seed: int, part: str, index: int, shape: str | None) -> bytes:
    return encode_jpeg(draw_picture(np.random.default_rng([seed, _STREAMS[part], index]), shape))


def _write_class(folder: Path, part: str, shape: str, num_images: int, seed: int) -> None:
    folder.mkdir(parents=True)
    first = CLASSES.index(shape) * num_images
    for i in range(num_images):
        (folder / f"{i:04d}.jpg").write_bytes(_draw_jpeg(seed, part, first + i, shape))


def _write_shard(path: Path, images: list[PoolImage], recipe: Recipe) -> None:
    write_tar(path, ((image.name, _pool_jpeg(image, recipe)) for image in images))


def _pool_jpeg(image: PoolImage, recipe: Recipe) -> bytes:
    if image.kind is None:
        return _draw_jpeg(recipe.seed, "pool", image.index, image.shape)
    original = _draw_jpeg(recipe.seed, "validation", image.source, image.shape)
    if image.kind == "exact":
        return original
    rng = np.random.default_rng([recipe.seed, _STREAMS["copies"], image.index])
    return encode_jpeg(plant(decode_jpeg(original), image.kind, rng))
