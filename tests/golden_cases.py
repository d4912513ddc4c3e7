"""Cases in the files of tests/golden, which official implementations computed."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
ORDINARY = [
    "small_b4c5",
    "b8c10",
    "identical_b4c7",
    "batch1_c10",
    "const_student_row_b4c5",
    "affine_b5c4",
    "square_b6c6",
]
EXTREME = "extreme80_b3c6"
