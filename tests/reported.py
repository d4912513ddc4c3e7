"""Tables and pictures for the report page, and a reader of the page that insists on balanced tags."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa

from ssld_pipeline.contracts import TABLES
from ssld_pipeline.queries.metrics import records
from ssld_pipeline.queries.trainings import Training
from ssld_pipeline.report.page import render

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}
CLASSES = ["cat", "dog"]


class Page(HTMLParser):
    """Balanced tags or an error; keeps every element's attributes and each section's text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.script = ""
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.script += data
        for tag, name in self._open:
            if tag == "section":
                self.text[name] = self.text.get(name, "") + " " + " ".join(data.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def squeezed(self, section: str) -> str:
        return " ".join(self.text[section].split())


def picture(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Smooth coloured blobs, so that a warp can be compared and a JPEG is small."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def catalogued(
    folder: Path, image_id: str, role: str, pixels: np.ndarray, class_id: int | None = None
) -> dict[str, Any]:
    """Writes the image as PNG and returns its row."""
    path = folder / (re.sub(r"\W", "_", image_id) + ".png")
    cv2.imwrite(str(path), pixels)
    return {
        "image_id": image_id,
        "role": role,
        "uri": str(path),
        "offset": 0,
        "size_bytes": path.stat().st_size,
        "class_id": class_id,
        "stamp": "1",
        "part": "p",
    }


def pair_row(
    image_id: str, protected_id: str, score: float, confirmed: bool, h: np.ndarray | None = None
) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "protected_id": protected_id,
        "method": "sift",
        "num_matches": 40,
        "num_inliers": 17,
        "score": score,
        "num_blocks": 40,
        "coverage": 0.9,
        "explained": 0.5,
        "homography": None if h is None else h.ravel().tolist(),
        "flipped": False,
        "verdict": "copy" if confirmed else "no_copy",
        "is_duplicate": confirmed,
        "part": "p",
    }


def soft_row(image_id: str, prob: float, view: int = 0) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "view": view,
        "top1_class": 0,
        "top1_prob": prob,
        "entropy": 1 - prob,
        "class_ids": [0],
        "probs": [prob],
        "tail_prob": 1 - prob,
        "crop_left": 0.0,
        "crop_top": 0.0,
        "crop_width": 9.0,
        "crop_height": 9.0,
        "flipped": False,
        "part": "p",
    }


def manifest_row(
    row: dict[str, Any], class_id: int, score: float | None = None, rank: int | None = None
) -> dict[str, Any]:
    kept = {k: row[k] for k in ("image_id", "role", "uri", "offset", "size_bytes", "part")}
    return {**kept, "class_id": class_id, "score": score, "rank": rank}


def database(**tables: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name, table in TABLES.items():
        connection.register(name, pa.Table.from_pylist(tables.get(name, []), schema=table.schema()))
    return connection


def html_of(tables: dict[str, list[dict[str, Any]]], **options: Any) -> str:
    trainings = options.pop("trainings", [])
    return render(database(**tables), trainings, **{"title": "T", "classes": CLASSES, **options})


def trained(name: str, text: str = "", **values: Any) -> Training:
    """A training with the rows of a metrics.jsonl."""
    return Training(name, True, rows=records(text), **values)


def similarity(
    scale: float, degrees: float, mirrored: bool, protected: tuple[int, int], pool: tuple[int, int]
) -> np.ndarray:
    """Protected pixels to pool pixels: mirror, turn clockwise on the screen, scale, all about the centres."""
    a = math.radians(degrees)
    turn = (
        scale
        * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        @ np.diag([-1 if mirrored else 1, 1])
    )
    centre = np.array(pool) / 2 - turn @ (np.array(protected) / 2)
    return np.vstack([np.c_[turn, centre], [0, 0, 1]])
