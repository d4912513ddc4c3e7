"""Images that a tiny network tells apart in seconds, listed as a catalog part, and a training job over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.job import OnlineTeacher, StoredTeacher, TrainJob

CLASSES = ("red", "green", "blue")


def draw(class_id: int, seed: int, size: int = 36) -> np.ndarray:
    """uint8 RGB: noise, and a disc in the colour of the class."""
    rng = np.random.default_rng([class_id, seed])
    image = rng.integers(60, 190, (size, size + 6, 3)).astype(np.uint8)
    colour = [int(v) for v in rng.integers(0, 80, 3)]
    colour[class_id] = 230
    cv2.circle(image, (size // 2, size // 2), size // 3, colour, -1)
    return image


def write_images(folder: Path, per_class: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of catalog columns, one per PNG written, classes in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(per_class * len(CLASSES)):
        class_id = number % len(CLASSES)
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), draw(class_id, first + number)[:, :, ::-1])
        rows.append(
            {
                "image_id": f"{folder.name}/{path.name}",
                "role": "labeled",
                "uri": str(path),
                "offset": 0,
                "size_bytes": path.stat().st_size,
                "class_id": class_id,
            }
        )
    return rows


def write_table(path: Path, rows: list[dict[str, Any]], role: str | None = None) -> str:
    types = {
        "image_id": pa.string(),
        "role": pa.string(),
        "uri": pa.string(),
        "offset": pa.int64(),
        "size_bytes": pa.int64(),
        "class_id": pa.int32(),
    }
    rows = [{**row, **({"role": role} if role else {})} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), path)
    return str(path)


def world(folder: Path, per_class: int = 16) -> tuple[str, str]:
    """URIs of a table to train on and of one to validate on."""
    train = write_table(folder / "train.parquet", write_images(folder / "train", per_class))
    validation = write_images(folder / "validation", 6, first=1000)
    return train, write_table(folder / "validation.parquet", validation, "protected")


def settings(**changes: Any) -> TrainingConfig:
    small = {
        "steps": 12,
        "batch_size": 8,
        "lr": 0.05,
        "warmup_epochs": 0,
        "image_size": 32,
        "validations": 2,
        "min_crop_area": 0.5,
        **({} if {"loss", "objective", "teacher"} & changes.keys() else {"loss": "ce"}),
    }
    return TrainingConfig.model_validate({**small, **changes})


def job(
    train: str,
    validation: str | None = None,
    *,
    model: str = "timm:test_resnet",
    teacher: ModelSpec | StoredTeacher | None = None,
    teacher_image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainJob:
    own = settings(**changes)
    online = (
        OnlineTeacher(teacher, teacher_image_size or own.image_size, own.teacher_batch_norm)
        if isinstance(teacher, ModelSpec)
        else teacher
    )
    return TrainJob(
        stage="train",
        section="train",
        student=ModelSpec(model, len(CLASSES), model_args or {}),
        settings=own,
        objective=own.objective,
        tables=(train,),
        roles=("labeled",),
        validation=(validation,) if validation else (),
        teacher=online,
        class_names=CLASSES,
        licence="CC-BY-NC-4.0",
    )
