"""An input that lost its images is refused, with its name, the setting and the first reason; a guard must be whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_inputs
import mini
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mini import bring

from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs import walk
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.store.workspace import Workspace

JPEG = bad_inputs.encode(bad_inputs.photo())


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The inputs of a world in which no network is used."""
    mini.write_inputs(tmp_path / "inputs", num_tars=1)
    mini.write_config(tmp_path)
    return tmp_path / "inputs"


def catalog(inputs: Path, *changes: str, only: bool = False) -> list[dict[str, Any]]:
    """Runs the catalog and returns its rejects."""
    config = load_config(inputs.parent / "config.yaml", changes)
    bring(config, until="catalog")
    return rows_of(Workspace(config.workspace), "SELECT image_id, reason, detail FROM rejects ORDER BY 1")


def refusal(inputs: Path, *changes: str) -> str:
    """The message that ends the run; the same in a second run, which has less to do."""
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            catalog(inputs, *changes)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "None" not in messages[0]
    return messages[0]


def num_catalogued(inputs: Path, name: str) -> int:
    config = load_config(inputs.parent / "config.yaml")
    query = f"SELECT count(*) AS n FROM catalog WHERE image_id LIKE '{name}/%'"
    return int(rows_of(Workspace(config.workspace), query)[0]["n"])


# Shares


def test_a_class_that_the_list_lacks_is_refused(inputs: Path) -> None:
    for k in range(12):
        (inputs / "train/disc" / f"more-{k}.jpg").write_bytes(JPEG)
    (inputs / "classes.txt").write_text("circle\nsquare\nstripes\n")
    classes = f"classes={inputs / 'classes.txt'}"
    message = refusal(inputs, classes, "catalog.images_per_part=5000")
    assert "catalog.max_reject_share (0.05)" in message and "labeled/disc#0 (20 of 20)" in message
    assert 'folder "disc" names no class of the run' in message
    found = catalog(inputs, classes, "catalog.max_reject_share=0.6", "catalog.max_unknown_labels=1")
    assert [r["reason"] for r in found if r["image_id"].startswith("labeled/")] == ["unknown_class"] * 20


def test_many_small_losses_of_an_input_are_summed(inputs: Path) -> None:
    """No part loses more than ten."""
    for name in mini.CLASSES:
        for k in range(5):
            (inputs / "train" / name / f"film-{k}.mp4").write_bytes(b"film")
    message = refusal(inputs)
    assert "15 of 39 images of the input 'labeled'" in message and "catalog.max_reject_share (0.05)" in message
    assert "not_an_image" in message
    assert len(catalog(inputs, "catalog.max_reject_share=0.4")) == 15


def test_up_to_ten_lost_images_pass(inputs: Path) -> None:
    for k in range(10):
        (inputs / "train/disc" / f"film-{k}.mp4").write_bytes(b"film")
    assert len(catalog(inputs, "catalog.max_reject_share=0")) == 10


def test_files_that_are_no_images_pass(inputs: Path) -> None:
    members = {f"{k}.{suffix}": b"1" for k in range(60) for suffix in ("txt", "json", "cls", "npy")}
    mini.write_tar(inputs / "pool/more.tar", {**members, **{f"{k}.jpg": JPEG for k in range(60)}})
    (inputs / "pool/notes.txt").write_text("hello")
    assert catalog(inputs, "catalog.max_reject_share=0") == []


def test_companions_of_samples_pass(inputs: Path) -> None:
    members = {f"{k}.{kind}": JPEG for k in range(20) for kind in ("jpg", "seg.png", "thumb.jpg")}
    mini.write_tar(inputs / "pool/more.tar", members)
    found = catalog(inputs, "catalog.max_reject_share=0")
    assert [r["reason"] for r in found] == ["companion"] * 40
    assert num_catalogued(inputs, "pool/more.tar") == 20


def test_a_tar_of_other_files_is_refused(inputs: Path) -> None:
    mini.write_tar(
        inputs / "pool/p.tar", {**{f"{k}.npy": b"0" for k in range(60)}, **{f"a{k}.jpg": JPEG for k in "123"}}
    )
    assert "pool/p.tar (60 of 63)" in refusal(inputs)


def test_a_list_of_missing_files_is_refused(inputs: Path) -> None:
    (inputs / "list.txt").write_text("".join(f"train/disc/{k}.jpg 0\n" for k in range(60)))
    pool = "inputs.pool={uri: " + str(inputs / "list.txt") + ", format: list}"
    message = refusal(inputs, pool)
    assert "52 of 60 images of the input 'pool'" in message and "pool/train/disc/8.jpg (unreadable" in message


def test_a_path_listed_many_times_is_no_lost_image(inputs: Path) -> None:
    (inputs / "list.txt").write_text("".join(f"train/disc/{k % 8}.jpg 0\n" for k in range(60)))
    pool = "inputs.pool={uri: " + str(inputs / "list.txt") + ", format: list}"
    assert len(catalog(inputs, pool)) == 52


# Damaged archives of a pool


def damage(path: Path, share: float) -> None:
    """Overwrites the first header after ``share`` of the file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"ustar", int(len(data) * share)) - 257
    data[at : at + 512] = b"?" * 512
    path.write_bytes(data)


def test_damage_at_the_front_of_a_large_tar_is_refused(inputs: Path) -> None:
    mini.write_tar(inputs / "pool/large.tar", {f"{k:03}.jpg": JPEG for k in range(100)})
    damage(inputs / "pool/large.tar", 0.1)
    message = refusal(inputs)
    assert "pool/large.tar" in message and "truncated_archive" in message and "bytes from there are not read" in message


def test_damage_at_the_end_of_a_large_tar_is_one_reject(inputs: Path) -> None:
    mini.write_tar(inputs / "pool/large.tar", {f"{k:03}.jpg": JPEG for k in range(100)})
    damage(inputs / "pool/large.tar", 0.95)
    assert [(r["image_id"], r["reason"]) for r in catalog(inputs)] == [("pool/large.tar", "truncated_archive")]
    assert num_catalogued(inputs, "pool/large.tar") > 90


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_at_a_share_of_zero_a_cut_tar_is_refused(inputs: Path, share: float) -> None:
    path = inputs / "pool/pool-0.tar"
    os.truncate(path, int(path.stat().st_size * share))
    assert [r["reason"] for r in catalog(inputs)] == ["truncated_archive"]
    shutil.rmtree(inputs.parent / "workspace")
    message = refusal(inputs, "catalog.max_reject_share=0")
    assert "catalog.max_reject_share (0)" in message and "pool/pool-0.tar" in message


def test_the_rows_that_a_damaged_parquet_file_lost_are_counted(inputs: Path) -> None:
    table = pa.table({"image": pa.array([random.Random(k).randbytes(2000) for k in range(200)], pa.binary())})
    (inputs / "parquet").mkdir()
    pq.write_table(table, inputs / "parquet/a.parquet", row_group_size=100, compression="zstd", use_dictionary=False)
    data = bytearray((inputs / "parquet/a.parquet").read_bytes())
    at = pq.ParquetFile(inputs / "parquet/a.parquet").metadata.row_group(1).column(0).data_page_offset
    data[at : at + 20] = b"?" * 20
    (inputs / "parquet/a.parquet").write_bytes(data)
    pool = "inputs.pool={uri: " + str(inputs / "parquet") + ", format: parquet}"
    assert "pool/a.parquet (100 of 200)" in refusal(inputs, pool)


def test_a_tar_of_tars_is_refused_although_other_tars_are_fine(inputs: Path) -> None:
    mini.write_tar(inputs / "pool/whole.tar", {"n01.tar": b"", "n02.tar": b""})
    message = refusal(inputs)
    assert "pool/whole.tar (2 of 2)" in message and "unpack the outer tar" in message


def test_loose_images_in_a_folder_of_tars_are_rejects(inputs: Path) -> None:
    for name in (
        "a.jpg",
        "b.PNG",
        "c.zip",
        "d.parquet",
        "pool-0.parquet",
        "pool-0.jpg",
        "readme.md",
        ".x.jpg",
        "deep/d.jpg",
    ):
        (inputs / "pool" / name).parent.mkdir(exist_ok=True)
        (inputs / "pool" / name).write_bytes(JPEG)
    found = {r["image_id"]: r["reason"] for r in catalog(inputs)}
    assert found == dict.fromkeys(("pool/a.jpg", "pool/b.PNG", "pool/c.zip", "pool/d.parquet"), "other_format")
    for k in range(20):
        (inputs / "pool" / f"more-{k}.jpg").write_bytes(JPEG)
    assert "24 of 37 images of the input 'pool'" in refusal(inputs)


# Inputs without a usable image


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"n01.tar": b"", "n02.tar": b""}, "nested_archive"),
        ({"a.npy": b"0"}, "not_an_image"),
        ({"../a.jpg": JPEG}, "unsafe_name"),
        ({"a.txt": b"0"}, "It holds no image"),
        ({}, "It holds no image"),
    ],
)
def test_a_pool_without_a_usable_image_is_refused_at_any_share(
    inputs: Path, members: dict[str, bytes], reason: str
) -> None:
    (inputs / "pool/pool-0.tar").unlink()
    mini.write_tar(inputs / "pool/whole.tar", members)
    message = refusal(inputs, "catalog.max_reject_share=1")
    assert message.startswith("inputs.pool: no image of ") and reason in message


def test_a_labelled_input_of_unknown_classes_is_refused_at_any_share(inputs: Path) -> None:
    (inputs / "classes.txt").write_text("red\ngreen\n")
    shares = ("catalog.max_reject_share=1", "catalog.max_unknown_labels=1")
    message = refusal(inputs, f"classes={inputs / 'classes.txt'}", *shares)
    assert message.startswith("inputs.labeled") and "none of the 24 images has a class of the run" in message


def test_a_compressed_tar_under_another_name_is_refused(inputs: Path) -> None:
    pool = inputs / "pool/pool-0.tar"
    subprocess.run(["gzip", pool], check=True)
    (inputs / "pool/pool-0.tar.gz").rename(pool)
    message = refusal(inputs)
    assert "no image of" in message and "a gzip file" in message


def test_later_stages_do_not_start_on_a_refused_input(inputs: Path) -> None:
    for name in mini.CLASSES:
        for k in range(5):
            (inputs / "train" / name / f"film-{k}.mp4").write_bytes(b"film")
    catalog(inputs, "catalog.max_reject_share=1")
    with pytest.raises(UserError, match=r"catalog\.max_reject_share"):
        bring(load_config(inputs.parent / "config.yaml"), only=("index_protected",))


def test_a_pool_of_which_no_image_can_be_decoded_is_refused(inputs: Path) -> None:
    mini.write_tar(inputs / "pool/pool-0.tar", {f"{k}.jpg": b"no image" for k in range(5)})
    config = load_config(inputs.parent / "config.yaml", ("dedupe.max_reject_share=1",))
    mini.write_teacher(inputs.parent / "teacher.safetensors")
    messages = []
    for options in ({"until": "find_copies"}, {"until": "find_copies"}, {"only": ("dedupe",)}):
        with pytest.raises(UserError, match="find_copies: none of the 5 images of the input 'pool'") as refused:
            bring(config, **options)
        messages.append(str(refused.value))
    assert len(set(messages)) == 1 and "pool/pool-0.tar/0.jpg (not_an_image" in messages[0]


# What may not be read


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of files and folders that may not be opened: for root, file modes prove nothing."""
    found: set[str] = set()
    scandir, opened = os.scandir, open

    def listed(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name in found:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def open_file(path: Any, *args: Any, **options: Any) -> Any:
        if Path(str(path)).name in found:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *args, **options)

    monkeypatch.setattr(walk.os, "scandir", listed)
    monkeypatch.setattr("builtins.open", open_file)
    yield found


def test_a_pool_that_may_not_be_listed_is_refused(inputs: Path, forbidden: set[str]) -> None:
    forbidden.add("pool")
    with pytest.raises(UserError, match=r"inputs\.pool: .*Permission denied"):
        catalog(inputs)
    forbidden.clear()
    (inputs / "pool/sub").mkdir()
    (inputs / "pool/pool-0.tar").rename(inputs / "pool/sub/pool-0.tar")
    forbidden.add("sub")
    with pytest.raises(UserError, match=r"inputs\.pool: .*pool/sub|sub: unreadable .*Permission denied"):
        catalog(inputs)


def test_a_tar_that_may_not_be_read_is_refused(inputs: Path, forbidden: set[str]) -> None:
    mini.write_tar(inputs / "pool/locked.tar", mini.pool_tar(1))
    forbidden.add("locked.tar")
    message = refusal(inputs)
    assert "pool/locked.tar" in message and "Permission denied" in message
    assert num_catalogued(inputs, "pool") == 13, "the other tar is kept"


def test_a_class_folder_that_may_not_be_read_counts_as_many_images_as_the_others(
    inputs: Path, forbidden: set[str]
) -> None:
    for name in mini.CLASSES:
        for k in range(12):
            (inputs / "train" / name / f"more-{k}.jpg").write_bytes(JPEG)
    forbidden.add("disc")
    (inputs / "validation/disc").rename(inputs / "validation/round")
    message = refusal(inputs)
    assert "20 of 60 images of the input 'labeled'" in message and "labeled/disc (unreadable" in message


# Protected inputs


def protect(inputs: Path, members: dict[str, bytes]) -> str:
    shutil.rmtree(inputs / "validation")
    mini.write_tar(inputs / "validation/v.tar", members)
    return "inputs.protected={uri: " + str(inputs / "validation") + ", format: tar}"


PROTECTED = {f"disc/{k}.jpg": JPEG for k in range(40)}


def spoil_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 3 // 4)


def spoil_middle(path: Path) -> None:
    damage(path, 0.9)


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"?" * 600)


def spoil_link(path: Path) -> None:
    import tarfile

    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("disc/link.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "gone.jpg"
        archive.addfile(member)


def spoil_nested(path: Path) -> None:
    mini.write_tar(path, {**PROTECTED, "more.tar": b""})


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_middle, spoil_end, spoil_link, spoil_nested])
@pytest.mark.parametrize("against", ["[protected]", "[labeled]"])
def test_a_protected_tar_that_is_not_whole_stops_the_run(inputs: Path, spoil: Any, against: str) -> None:
    protected = protect(inputs, PROTECTED)
    assert catalog(inputs, protected) == []
    spoil(inputs / "validation/v.tar")
    message = refusal(inputs, protected, f"dedupe.against={against}", "catalog.max_reject_share=1")
    assert message.startswith("catalog: protected images cannot be read") and "protected/v.tar" in message
    assert "raise" not in message


def test_a_pool_that_becomes_a_guard_must_be_whole(inputs: Path) -> None:
    """The parts of the catalog are committed already."""
    os.truncate(inputs / "pool/pool-0.tar", (inputs / "pool/pool-0.tar").stat().st_size // 2)
    mini.write_tar(inputs / "more/a.tar", mini.pool_tar(1))
    pools = [
        f"{{uri: {inputs / place}, format: tar, name: {name}}}" for place, name in (("pool", "old"), ("more", "new"))
    ]
    both = f"inputs.pool=[{', '.join(pools)}]"
    assert [r["reason"] for r in catalog(inputs, both)] == ["truncated_archive"]
    assert "old/pool-0.tar (truncated_archive" in refusal(inputs, both, "dedupe.against=[protected, old]")


def test_protected_tars_that_were_joined_are_whole(inputs: Path) -> None:
    protected = protect(inputs, PROTECTED)
    path = inputs / "validation/v.tar"
    mini.write_tar(inputs / "second.tar", {f"square/{k}.jpg": JPEG for k in range(5)})
    path.write_bytes(path.read_bytes() + (inputs / "second.tar").read_bytes())
    assert catalog(inputs, protected) == []
    assert num_catalogued(inputs, "protected") == 45
