"""Suffixes mean the same in either case, wherever one is looked at: DATA.PARQUET, SHARD.TAR, 0001.CLS."""

from __future__ import annotations

from pathlib import Path

import bad_inputs
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_inputs import catalogue, classes_of, num_open_files

from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.terminal.inspection import _within

IMAGES = [bad_inputs.encode(bad_inputs.photo(seed)) for seed in range(4)]


@pytest.mark.parametrize("name", ["a.parquet", "A.PARQUET", "a.Parquet"])
@pytest.mark.parametrize("where", ["local", "remote"])
def test_parquet_files_are_listed_and_read(tmp_path: Path, name: str, where: str) -> None:
    pq.write_table(pa.table({"image": pa.array(IMAGES, pa.binary())}), tmp_path / name)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/suffixes", recursive=True)
    try:
        rows, rejects = catalogue(tmp_path if where == "local" else "memory://suffixes", "parquet")
        assert rejects == {}
        assert list(ImageReader().read_many(rows)) == IMAGES
        assert _within(rows.to_pylist()[3]).endswith(f"{name}, row 3")
    finally:
        memory.rm("/suffixes", recursive=True)


@pytest.mark.parametrize("name", ["a.tar", "A.TAR", "a.Tar"])
def test_tars_are_listed_and_read_and_stay_open(tmp_path: Path, name: str) -> None:
    bad_inputs.write_tar(tmp_path / name, [(f"{i}.JPG", data) for i, data in enumerate(IMAGES)])
    rows, rejects = catalogue(tmp_path, "tar")
    assert rejects == {}
    reader = ImageReader()
    before = num_open_files()
    assert list(reader.read_many(rows)) == IMAGES
    assert num_open_files() == before + 1


@pytest.mark.parametrize("label", [("0.CLS", b"1"), ("0.JSON", b'{"label": "dog"}'), ("0.Json", b'{"cls": 1}')])
def test_labels_of_a_tar_are_read(tmp_path: Path, label: tuple[str, bytes]) -> None:
    bad_inputs.write_tar(tmp_path / "a.tar", [("0.JPG", IMAGES[0]), label])
    rows, rejects = catalogue(tmp_path, "tar", "labeled")
    assert (classes_of(rows), rejects) == ({"labeled/a.tar/0.JPG": 1}, {})


@pytest.mark.parametrize("name", ["A.TAR.GZ", "a.Tgz", "a.tar.Z", "a.TZST"])
def test_compressed_tars_are_refused(tmp_path: Path, name: str) -> None:
    bad_inputs.write_tar(tmp_path / "b.tar", [("0.jpg", IMAGES[0])])
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match="compressed"):
        list_shards("pool", "pool", str(tmp_path), "tar", 10)
