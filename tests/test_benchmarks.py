"""Benchmarks that run on a machine with a GPU and little else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "faiss", "deltalake", "duckdb"):
            raise ModuleNotFoundError(f"refused: {name}")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
"""

MEASURE = """
import tempfile
from pathlib import Path
import gpu, train
import pyarrow.parquet as pq

with tempfile.TemporaryDirectory() as scratch:
    rows = f"{scratch}/rows.parquet"
    pq.write_table(gpu.catalog_rows(gpu.draw_files(Path(scratch), 16)), rows)
    sizes = {"batch_size": 8, "norm_batch": 4, "image_size": 32, "steps": 6}
    job = gpu.job_of(rows, "test_efficientnet", "test_resnet", **sizes)
    found = gpu.training_rates(job, gpu.Execution(norm_batches_per_pass=2, cache=scratch))
    print(*found, sep="\\n")
"""


@pytest.mark.slow
def test_the_training_loop_is_measured_without_engine_store_and_index() -> None:
    command = [sys.executable, "-c", REFUSE + MEASURE, str(BENCHMARKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()
    for wanted in ("loop: images/s", "bare loop: images/s", "loader", "copy", "teacher", "student", "optimiser"):
        assert any(name.startswith(wanted) for name in names), wanted
