"""JPEG files to measure with, and their rows as the catalog has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from ssld_pipeline.kernels.images import encode_jpeg

NUM_CLASSES = 1000


def draw_files(folder: Path, count: int) -> list[Path]:
    """Textured pictures of 500 x 375 pixels whose JPEG files are as large as photographs' (some 100 kB)."""

    def draw(number: int) -> Path:
        rng = np.random.default_rng(number)
        layers = [
            cv2.resize(rng.normal(0, 30, (n, n, 3)).astype(np.float32), (500, 375), interpolation=cv2.INTER_CUBIC)
            for n in (6, 24, 96, 200)
        ]
        path = folder / f"{number:05}.jpg"
        path.write_bytes(encode_jpeg(np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)))
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(draw, range(count)))


def catalog_rows(files: Sequence[Path]) -> pa.Table:
    rows = [
        {
            "image_id": f"pool/{f.name}",
            "role": "pool",
            "uri": str(f),
            "offset": 0,
            "size_bytes": f.stat().st_size,
            "class_id": k % NUM_CLASSES,
        }
        for k, f in enumerate(files)
    ]
    return pa.Table.from_pylist(rows)
