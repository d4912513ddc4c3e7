"""Pictures drawn from a seed: textured enough for key points, and unlike each other."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def picture(seed: int, width: int = 320, height: int = 240) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3] RGB: shapes of many sizes and colours on a mottled ground."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 200, (9, 12, 3), dtype=np.uint8)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        centre = rng.uniform(0, 1, 2) * (width, height)
        corners = centre + rng.normal(0, rng.uniform(5, 40), (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
    return np.asarray(image, np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], quality: int = 90) -> bytes:
    """JPEG bytes of RGB pixels."""
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def text_page(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """uint8 [512, 512]: words from ``rng`` on 17 lines, always laid out alike."""
    sheet = np.full((512, 512), 245, np.uint8)
    for y in range(40, 500, 28):
        words = " ".join("".join(rng.choice(list("abcdefghiklmnopst"), rng.integers(3, 9))) for _ in range(6))
        cv2.putText(sheet, words, (20, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20,), 2)
    return sheet
