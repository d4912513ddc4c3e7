"""The manifest as a training set elsewhere: nothing lost, nothing twice, the same bytes, and safe to kill."""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import mini
import pyarrow.parquet as pq
import pytest
from test_cli import verb
from test_run import bring
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.export.model import export_from
from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.inputs.scan import scan
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.store import files
from ssld_pipeline.store.workspace import Workspace


@pytest.fixture(scope="module")
def config(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = mini.copy_world(finished_world, tmp_path_factory.mktemp("export")) / "config.yaml"
    bring(load_config(path), until="select")
    return path


def manifest(config: Path) -> dict[str, dict[str, Any]]:
    rows = rows_of(Workspace(load_config(config).workspace), "SELECT * FROM manifest")
    return {row["image_id"]: row for row in rows}


def packed(config: Path, out: Path, format: str = "webdataset", *options: str) -> list[str]:
    return verb("export", config, "manifest", "--format", format, "--out", out, *options).splitlines()


def samples(shard: Path) -> list[tuple[dict[str, Any], int, bytes]]:
    """(json, cls, image) in the order of the tar."""
    with tarfile.open(shard) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    triples = [members[i : i + 3] for i in range(0, len(members), 3)]
    assert all(len({name.split(".")[0] for name, _ in triple}) == 1 for triple in triples)
    assert all([name.split(".")[1] for name, _ in triple] == ["jpg", "cls", "json"] for triple in triples)
    return [(json.loads(about), int(label), image) for (_, image), (_, label), (_, about) in triples]


def test_webdataset_shards_hold_every_image_once_and_shuffled(config: Path, tmp_path: Path) -> None:
    rows, reader = manifest(config), ImageReader()
    shards = [Path(line) for line in packed(config, tmp_path / "a", "webdataset", "--images-per-shard", "8")]
    assert [len(samples(shard)) for shard in shards] == [8, 8, 8, len(rows) - 24]
    found = [sample for shard in shards for sample in samples(shard)]
    assert Counter(about["image_id"] for about, _, _ in found) == Counter(rows.keys())
    for about, label, image in found:
        row = rows[about["image_id"]]
        assert label == row["class_id"] and about["class"] == mini.CLASSES[label] and about["rank"] == row["rank"]
        assert image == reader.read(row["uri"], row["offset"], row["size_bytes"])
    assert len({label for _, label, _ in found[:8]}) > 1, "a reader of one shard sees several classes"
    packed(config, tmp_path / "b", "webdataset", "--images-per-shard", "8")
    packed(config, tmp_path / "c", "webdataset", "--images-per-shard", "8", "--seed", "1")
    assert all((tmp_path / "b" / s.name).read_bytes() == s.read_bytes() for s in shards)
    other = [about["image_id"] for s in shards for about, _, _ in samples(tmp_path / "c" / s.name)]
    assert sorted(other) == sorted(rows) and other != [about["image_id"] for about, _, _ in found]


def test_shards_keep_to_their_bytes(config: Path, tmp_path: Path) -> None:
    largest = max(row["size_bytes"] for row in manifest(config).values())
    shards = [Path(line) for line in packed(config, tmp_path, "webdataset", "--shard-bytes", str(3 * largest))]
    sizes = [[len(image) for _, _, image in samples(shard)] for shard in shards]
    assert all(sum(shard) <= 3 * largest < sum(shard) + after[0] for shard, after in pairwise(sizes))
    tiny = packed(config, tmp_path, "webdataset", "--shard-bytes", "1")
    assert len(tiny) == len(manifest(config)), "an image larger than a shard has one to itself"


@pytest.mark.parametrize(("format", "again"), [("webdataset", "tar"), ("parquet-images", "parquet")])
def test_packed_images_are_an_input_of_this_pipeline(config: Path, tmp_path: Path, format: str, again: str) -> None:
    packed(config, tmp_path, format, "--images-per-shard", "20")
    shards, rejects = list_shards("labeled", "labeled", str(tmp_path), again, 5000)
    scanned = [scan(shard, mini.CLASSES, 5000) for shard in shards]
    assert not rejects and not [r for _, bad in scanned for r in bad]
    found = Counter(row["class_id"] for rows, _ in scanned for row in rows.to_pylist())
    assert found == Counter(row["class_id"] for row in manifest(config).values())


def test_parquet_images_say_what_they_are(config: Path, tmp_path: Path) -> None:
    rows, reader = manifest(config), ImageReader()
    found = [r for path in packed(config, tmp_path, "parquet-images") for r in pq.read_table(path).to_pylist()]
    assert Counter(r["image_id"] for r in found) == Counter(rows.keys())
    for r in found:
        row = rows[r["image_id"]]
        assert r["image"]["bytes"] == reader.read(row["uri"], row["offset"], row["size_bytes"])
        assert (r["label"], r["class"], r["role"]) == (row["class_id"], mini.CLASSES[row["class_id"]], row["role"])
        assert (r["score"], r["rank"], r["image"]["path"]) == (row["score"], row["rank"], r["image_id"])


def test_a_killed_export_goes_on_where_it_was(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = files.write_bytes, []

    def fails_at_the_third(uri: str, data: bytes) -> None:
        if uri.endswith(".tar"):
            written.append(uri)
            if len(written) == 3:
                raise KeyboardInterrupt
        write(uri, data)

    monkeypatch.setattr(files, "write_bytes", fails_at_the_third)
    words = ["export", str(config), "manifest", "--format", "webdataset", "--images-per-shard", "10"]
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path)]).exit_code != 0
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]
    shards = packed(config, tmp_path, "webdataset", "--images-per-shard", "10")
    names = [Path(shard).name for shard in shards]
    assert [Path(uri).name for uri in written] == [*names[:3], *names[2:]]

    written.clear()
    (tmp_path / names[1]).write_bytes(b"cut short")
    packed(config, tmp_path, "webdataset", "--images-per-shard", "10")
    assert [Path(uri).name for uri in written] == [names[1]]
    packed(config, tmp_path, "webdataset", "--images-per-shard", "1000")
    assert [p.name for p in tmp_path.glob("*.tar")] == names[:1], "shards that are no more are gone"


def test_an_unreadable_image_is_reported_and_tried_again(config: Path, tmp_path: Path) -> None:
    image = config.parent / "inputs/train/disc/3.jpg"
    image.rename(tmp_path / "away.jpg")
    try:
        told = packed(config, tmp_path / "out")[-1]
        assert told.startswith("1 image(s) could not be read") and str(tmp_path / "out/unreadable.csv") in told
        (listed,) = csv.DictReader((tmp_path / "out/unreadable.csv").open())
        assert (listed["image_id"], listed["reason"]) == ("labeled/disc/3.jpg", "unreadable")
        assert len(samples(tmp_path / "out/shard-000000.tar")) == len(manifest(config)) - 1
        with pytest.raises(UserError, match=r"none of the 1 images of shard-.* can be read"):
            packed(config, tmp_path / "single", "webdataset", "--images-per-shard", "1")
    finally:
        (tmp_path / "away.jpg").rename(image)
    assert packed(config, tmp_path / "out") == [str(tmp_path / "out/shard-000000.tar")]
    assert len(samples(tmp_path / "out/shard-000000.tar")) == len(manifest(config))
    assert not (tmp_path / "out/unreadable.csv").exists()


def test_paddleclas_lists_name_plain_files_alone(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6 image\(s\).* lies packed in a tar"):
        verb("export", config, "manifest", "--format", "paddleclas", "--out", tmp_path / "x.txt")
    verb("select", config, "--set", "select.min_score=1.0")  # mines nothing: what is left is a folder's files
    try:
        verb("export", config, "manifest", "--format", "paddleclas", "--out", tmp_path / "train.txt")
        lines = [line.split(" ") for line in (tmp_path / "train.txt").read_text().splitlines()]
        assert {path: int(label) for path, label in lines} == {
            row["uri"]: row["class_id"] for row in manifest(config).values()
        }
        assert len(lines) == 24 and all(Path(path).is_file() for path, _ in lines)
    finally:
        verb("select", config)


def test_white_space_would_end_a_path(finished_world: Path, tmp_path: Path) -> None:
    path = mini.write_config(mini.copy_world(finished_world, tmp_path / "a run"), select={"min_score": 1.0})
    bring(load_config(path), until="select")
    with pytest.raises(UserError, match=r"24 image\(s\).* white space"):
        verb("export", path, "manifest", "--format", "paddleclas", "--out", tmp_path / "x.txt")


def test_shards_of_another_format_are_not_deleted(config: Path, tmp_path: Path) -> None:
    (shard,) = packed(config, tmp_path)
    with pytest.raises(UserError, match=r"holds shards of another format .shard-000000.tar.; give another folder"):
        [*export_from(load_config(config), "manifest", tmp_path, "parquet-images")]
    assert Path(shard).is_file()


def test_an_object_store_is_no_local_path(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"export --out s3:/bucket/m.csv: expected a local path"):
        [*export_from(load_config(config), "manifest", Path("s3://bucket/m.csv"), "csv")]
    assert not [*tmp_path.iterdir()]


def test_nothing_to_export(tmp_path: Path) -> None:
    path = mini.write_world(tmp_path / "runs")
    with pytest.raises(UserError, match="no manifest yet"):
        packed(path, tmp_path / "out")
