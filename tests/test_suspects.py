"""An image that ends whoever decodes it is found by trying, and the rest of its part goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import mini
import pyarrow as pa
import pytest
from test_run import bring

from ssld_pipeline.config.load import load_config
from ssld_pipeline.kernels import images
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.runner.suspects import without_deadly
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import Receipt, WorkerSpec


def deadly(data: bytes) -> None:
    """Decodes, unless the bytes say what else to do."""
    if b"die" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"sleep" in data:
        time.sleep(60)
    images.decode(data)


def catalogued(folder: Path, **files: bytes) -> pa.Table:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = [
        {"image_id": f"pool/{name}", "uri": str(folder / name), "offset": 0, "size_bytes": len(data)}
        for name, data in files.items()
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.slow
def test_images_that_end_the_decoder_are_rejected_and_the_others_stay(tmp_path: Path) -> None:
    good = mini.jpeg(mini.draw(0, 1))
    rows = catalogued(tmp_path, a=good, b=good + b"die", c=b"no picture", d=good + b"die", e=good)
    left, rejects = without_deadly(rows, deadly)
    assert left["image_id"].to_pylist() == ["pool/a", "pool/c", "pool/e"], "what can be refused is the stage's affair"
    assert [(r.image_id, r.reason) for r in rejects] == [("pool/b", "deadly_image"), ("pool/d", "deadly_image")]
    assert "exit code -9" in rejects[0].detail


@pytest.mark.slow
def test_an_image_whose_decoding_does_not_end_is_rejected(tmp_path: Path) -> None:
    good = mini.jpeg(mini.draw(0, 1))
    left, rejects = without_deadly(catalogued(tmp_path, a=good + b"sleep", b=good), deadly, limit_s=3)
    assert left["image_id"].to_pylist() == ["pool/b"]
    assert "more than 3 s" in rejects[0].detail


def test_what_cannot_be_read_is_left_to_the_stage(tmp_path: Path) -> None:
    rows = catalogued(tmp_path, a=mini.jpeg(mini.draw(0, 1)))
    (tmp_path / "a").unlink()
    assert without_deadly(rows, deadly) == (rows, [])


@pytest.mark.slow
def test_a_worker_that_was_warned_labels_the_rest_of_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Warned(LocalEngine):
        def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt]:
            yield from super().work(spec, [replace(unit, careful=True) for unit in units])

    path = mini.write_world(tmp_path, num_tars=1)
    members = mini.pool_tar(0) | {"zz.jpg": mini.jpeg(mini.draw(0, 1)) + b"die"}
    mini.write_tar(tmp_path / "inputs/pool/pool-0.tar", members)
    config = load_config(path)
    bring(config, until="check_dedupe")
    monkeypatch.setattr("ssld_pipeline.runner.suspects.without_deadly", partial(without_deadly, decode=deadly))
    reports = {r.stage: r for r in run_pipeline(survey(config), Warned, mini.Silent(), until="label")}
    assert reports["find_copies"].num_rejects == 1
    assert reports["label"].num_rows == 12 and reports["label"].num_rejects == 0
