"""Rows and stored labels that the processes of a node build once and map: shared, noticed when damaged, removed when
nobody has them open."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import trial

from ssld_pipeline.errors import UserError
from ssld_pipeline.training.augmentation import random_generator
from ssld_pipeline.training.data import TrainImages, epoch_order, read_rows
from ssld_pipeline.training.row_store import open_store

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def write_numbers(folder: Path, count: int, log: str) -> None:
    """A store of ``count`` bytes; each build adds a line to ``log``."""
    with open(log, "a") as file:  # noqa: PTH123
        file.write(f"{os.getpid()}\n")
    np.save(folder / "numbers.npy", np.arange(count, dtype=np.uint8))


class Reader:
    """What maps a store, and keeps it."""

    def __init__(self, cache: Path, log: Path, count: int = 1000) -> None:
        arguments = {"count": count, "log": str(log)}
        store = open_store(str(cache), write_numbers, arguments, size_bytes=lambda: count)
        self.folder, self.numbers = store.folder, np.load(store.folder / "numbers.npy", mmap_mode="r")
        store.used_by(self)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def num_builds(log: Path) -> int:
    return len(log.read_text().splitlines())


def expected(count: int = 1000) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("damage", [flip_a_byte, cut, Path.unlink])
@pytest.mark.parametrize("name", ["numbers.npy", "record.json"])
def test_a_damaged_store_is_built_again(tmp_path: Path, log: Path, name: str, damage: Any, is_open: bool) -> None:
    """Also where another reader, whose mapping stays what it was where the file was replaced, has it open."""
    first = Reader(tmp_path, log)
    place = first.folder / name
    if is_open:
        place.rename(tmp_path / "kept")  # the mapped file itself stays whole
        place.write_bytes((tmp_path / "kept").read_bytes())
    else:
        del first
        gc.collect()
    damage(place)
    again = Reader(tmp_path, log)
    np.testing.assert_array_equal(again.numbers, expected())
    assert num_builds(log) == 2
    if is_open:
        np.testing.assert_array_equal(first.numbers, expected())


def test_what_a_killed_builder_left_is_no_store_and_goes(tmp_path: Path, log: Path) -> None:
    half = tmp_path / "row-store" / "building-x"
    half.mkdir(parents=True)
    (half / "numbers.npy").write_bytes(b"half")
    found = Reader(tmp_path, log)
    np.testing.assert_array_equal(found.numbers, expected())
    assert not half.exists()


def test_stores_that_nobody_has_open_go_when_another_is_built(tmp_path: Path, log: Path) -> None:
    kept, dropped = Reader(tmp_path, log, 10), Reader(tmp_path, log, 20)
    place = dropped.folder
    del dropped
    gc.collect()
    assert place.exists()  # for whoever comes next
    other = Reader(tmp_path, log, 30)
    assert kept.folder.exists() and other.folder.exists() and not place.exists()


def test_two_processes_build_once(tmp_path: Path, log: Path) -> None:
    """A store large enough that another process builds it, for both."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_row_store; test_row_store.say(*sys.argv[2:])"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [json.loads(line)["sum"] for line in told] == [int(expected(5_000_000).sum())] * 2
    assert num_builds(log) == 1
    assert int(log.read_text()) not in {json.loads(line)["pid"] for line in told}


def say(cache: str, log: str) -> None:
    found = Reader(Path(cache), Path(log), 5_000_000)
    print(json.dumps({"sum": int(found.numbers.sum(dtype=np.int64)), "pid": os.getpid()}))


def write_nothing(folder: Path, why: str) -> None:
    raise OSError(28, "No space left on device") if why == "full" else ValueError("a bug")


@pytest.mark.parametrize("size_bytes", [0, 1 << 30])
def test_a_full_disk_is_the_users_and_another_error_is_told(tmp_path: Path, size_bytes: int) -> None:
    """In this process or in one of its own."""
    with pytest.raises(UserError, match=r"no room for .* placement\.cache"):
        open_store(str(tmp_path), write_nothing, {"why": "full"}, size_bytes=lambda: size_bytes)
    with pytest.raises((ValueError, RuntimeError), match="a bug"):
        open_store(str(tmp_path), write_nothing, {"why": "bug"}, size_bytes=lambda: size_bytes)
    assert [path.name for path in (tmp_path / "row-store").iterdir()] == ["lock"]


def test_rows_are_mapped_without_a_copy_and_those_of_other_settings_are_others(tmp_path: Path) -> None:
    rows = trial.write_images(tmp_path / "images", 8)
    rows[3]["class_id"] = None
    table = trial.write_table(tmp_path / "t.parquet", rows)
    cache = str(tmp_path / "cache")
    before = pa.total_allocated_bytes()
    found = read_rows([table], ["labeled"], False, cache=cache)
    images = TrainImages(found, trial.settings())
    assert pa.total_allocated_bytes() == before  # nothing of it is in Arrow's own memory
    assert found["class_id"].to_pylist() == [row["class_id"] for row in rows]
    assert images._mined_ids.tolist() == [-1 if row["class_id"] is None else row["class_id"] for row in rows]
    for values in (images._mined_ids, images._offsets, images._sizes):
        assert not values.flags.owndata and not values.flags.writeable
    assert len(read_rows([table], ["labeled"], True, cache=cache)) == 23
    assert len(read_rows([table], ["labeled"], False, [rows[0]["image_id"]], cache=cache)) == 23
    assert len(read_rows([table], ["pool"], False, cache=cache)) == 0
    trial.write_table(tmp_path / "t.parquet", rows[:5])
    assert len(read_rows([table], ["labeled"], False, cache=cache)) == 5


@pytest.mark.slow
def test_processes_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and labels of 60 MB, opened by two processes as a training does; one of them has them built."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import row_store as benchmark

    tables = benchmark.generate(tmp_path / "tables", 60_000_000)
    found = benchmark.measure(tables, tmp_path / "cache", 2)
    assert found.store_bytes > 50_000_000
    assert found.largest_share < 0.25


def test_an_epochs_order_is_that_of_numpys_permutation() -> None:
    """As uint32 it takes half the memory, and orders of trainings that were begun stay what they were."""
    for num_images in (0, 1, 7, 1000):
        order = epoch_order(3, 2, num_images)
        assert order.dtype == np.uint32
        assert order.tolist() == random_generator(3, 2, -1).permutation(num_images).tolist()


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(UserError, match="another user"):
        Reader(tmp_path, log)
