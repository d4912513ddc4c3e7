"""A world of three classes and some sixty images, drawn in a second, and its config: what runner tests run on."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.progress import StageReport

THREADS = {
    "train_threads": 1,
    "loader_threads": 1,
}  # tiny networks on a shared machine: more threads wait for each other
CLASSES = ("disc", "square", "stripes")
UNUSED_INPUTS = {role: {"uri": f"unused/{role}", "format": "folder"} for role in ("labeled", "protected", "pool")}


def draw(class_id: int, seed: int, size: int = 96) -> np.ndarray:
    """uint8 RGB [size, size, 3]: one shape on textured ground, different for each seed."""
    rng = np.random.default_rng([class_id, seed])
    ground = sum(
        cv2.resize(rng.normal(0, 24, (n, n, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        for n in (6, 16, 48)
    )
    image = np.clip(ground + rng.uniform(60, 190, 3), 0, 255).astype(np.uint8)
    colour = tuple(int(v) for v in rng.integers(0, 255, 3))
    x, y = (int(v) for v in rng.integers(size // 3, 2 * size // 3, 2))
    if class_id == 0:
        cv2.circle(image, (x, y), size // 4, colour, -1)
    elif class_id == 1:
        cv2.rectangle(image, (x - size // 4, y - size // 4), (x + size // 4, y + size // 4), colour, -1)
    else:
        for k in range(0, size, 12):
            cv2.line(image, (k, 0), (k, size), colour, 4)
    return image


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def pool_tar(number: int, count: int = 12) -> dict[str, bytes]:
    """Members of one pool tar; each holds one recompressed copy of a protected image, as ``copy.jpg``."""
    members = {f"{k:03d}.jpg": jpeg(draw(k % 3, 1000 + 100 * number + k)) for k in range(count)}
    copy = cv2.resize(draw(number % 3, 500 + number), (80, 80), interpolation=cv2.INTER_AREA)
    return {**members, "copy.jpg": jpeg(copy, 70)}


def write_inputs(folder: Path, num_tars: int = 2) -> None:
    for role, first, count in (("train", 0, 8), ("validation", 500, 4)):
        for class_id, name in enumerate(CLASSES):
            place = folder / role / name
            place.mkdir(parents=True)
            for k in range(count):
                (place / f"{k}.jpg").write_bytes(jpeg(draw(class_id, first + k)))
    for number in range(num_tars):
        write_tar(folder / "pool" / f"pool-{number}.tar", pool_tar(number))


def write_teacher(path: Path, seed: int = 0) -> None:
    """Random weights that fit the config's teacher."""
    import torch

    from ssld_pipeline.models.build import build
    from ssld_pipeline.models.spec import ModelSpec
    from ssld_pipeline.models.weights import save_weights

    torch.manual_seed(seed)
    save_weights(build(ModelSpec("timm:test_resnet", len(CLASSES))), path)


def settings() -> dict[str, Any]:
    return {
        "workspace": "workspace",
        "inputs": {
            "labeled": {"uri": "inputs/train", "format": "folder"},
            "protected": {"uri": "inputs/validation", "format": "folder"},
            "pool": {"uri": "inputs/pool", "format": "tar"},
        },
        "teacher": {"model": "timm:test_resnet", "weights": "teacher.safetensors", "image_size": 32, "min_top1": 0.0},
        "catalog": {"images_per_part": 5},
        "dedupe": {"canaries": 31},
        "label": {"num_kept": 2},
        "select": {"per_class": 6},
        "student": {"model": "timm:test_efficientnet"},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32, "validations": 1},
        "finetune": {"epochs": 1, "lr": 0.01},
        "baseline": {},
        "placement": {"runner": "local", **THREADS},
    }


def write_world(folder: Path, num_tars: int = 2, **changes: Any) -> Path:
    """The config file of a whole world in ``folder``; ``changes`` replace top-level sections."""
    write_inputs(folder / "inputs", num_tars)
    write_teacher(folder / "teacher.safetensors")
    return write_config(folder, **changes)


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**settings(), **changes}))
    return path


class Silent:
    """Progress of a run that prints nothing."""

    def started(self, plan: Any, total: int) -> None: ...
    def advanced(self, amount: int) -> None: ...
    def reached(self, amount: int, note: str = "") -> None: ...
    def finished(self, report: Any) -> None: ...


def bring(config: RunConfig, **options: Any) -> dict[str, StageReport]:
    """Run the pipeline in this process, whatever the runner of the config. Reports by stage."""
    from ssld_pipeline.runner.local_engine import LocalEngine
    from ssld_pipeline.runner.run import run_pipeline
    from ssld_pipeline.runner.survey import survey

    return {r.stage: r for r in run_pipeline(survey(config), LocalEngine, Silent(), **options)}


def copy_world(done: Path, parent: Path) -> Path:
    """A world in which something has run, moved to another parent, times kept."""
    target = parent / "elsewhere"
    shutil.copytree(done, target, copy_function=shutil.copy2)
    return target
