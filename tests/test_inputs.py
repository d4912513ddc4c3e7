"""Listing, scanning and reading each format; every planted file is a row or a reject, exactly once."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_inputs
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssld_pipeline.contracts import CATALOG, REJECT_REASONS, Reject
from ssld_pipeline.errors import BadImage, UserError
from ssld_pipeline.inputs import walk
from ssld_pipeline.inputs.listing import class_folders, list_shards
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.inputs.scan import scan
from ssld_pipeline.inputs.shard import Shard
from ssld_pipeline.kernels.ahead import ahead
from ssld_pipeline.kernels.images import decode

CLASSES = ("cat", "dog")
JPEG = bad_inputs.encode(bad_inputs.photo())


def catalogue(
    uri: Path | str, format: str, role: str = "pool", images_per_part: int = 100, classes: tuple[str, ...] = CLASSES
) -> tuple[pa.Table, dict[str, str]]:
    """Rows of all shards, and image_id -> reason of all rejects; asserts that no image_id comes twice."""
    shards, rejects = list_shards(role, role, str(uri), format, images_per_part)
    tables = []
    for shard in shards:
        rows, found = scan(Shard.from_table(shard.to_table()), classes, images_per_part)
        assert rows.schema == CATALOG.schema()
        tables.append(rows)
        rejects = rejects + found
    rows = pa.concat_tables(tables)
    ids = rows["image_id"].to_pylist() + [r.image_id for r in rejects]
    assert len(ids) == len(set(ids))
    assert all(i.startswith(f"{role}/") for i in ids)
    assert {r.reason for r in rejects} <= REJECT_REASONS.keys()
    return rows, reasons(rejects)


def reasons(rejects: list[Reject]) -> dict[str, str]:
    return {r.image_id: r.reason for r in rejects}


def ids(rows: pa.Table) -> set[str]:
    return set(rows["image_id"].to_pylist())


def classes_of(rows: pa.Table) -> dict[str, int | None]:
    return dict(zip(rows["image_id"].to_pylist(), rows["class_id"].to_pylist(), strict=True))


def decoded(rows: pa.Table) -> dict[str, str | None]:
    """image_id -> reason or None, after reading and decoding."""
    return dict(zip(rows["image_id"].to_pylist(), map(reason_of, ImageReader().read_many(rows, 3)), strict=True))


def reason_of(data: bytes | BadImage) -> str | None:
    try:
        decode(data) if isinstance(data, bytes) else None
    except BadImage as error:
        return error.reason
    return data.reason if isinstance(data, BadImage) else None


def write(folder: Path, *names: str, data: bytes = JPEG) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# Folders


def test_class_folders_give_classes_and_images_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.jpg", "cat/deep/er/b.PNG", "dog/a.jpg", "dog/hash_without_suffix")
    rows, rejects = catalogue(tmp_path, "folder", "labeled")
    assert rejects == {}
    assert classes_of(rows) == {
        "labeled/cat/a.jpg": 0,
        "labeled/cat/deep/er/b.PNG": 0,
        "labeled/dog/a.jpg": 1,
        "labeled/dog/hash_without_suffix": 1,
    }
    assert set(rows["part"].to_pylist()) == {"labeled/cat#0#0", "labeled/dog#0#0"}
    assert class_folders(str(tmp_path)) == CLASSES


def test_a_flat_pool_has_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg")
    rows, rejects = catalogue(tmp_path, "folder")
    assert (classes_of(rows), rejects) == ({"pool/a.jpg": None, "pool/b.jpg": None}, {})


@pytest.mark.parametrize("role", ["labeled", "protected", "pool"])
def test_what_an_unknown_class_means_depends_on_the_role(tmp_path: Path, role: str) -> None:
    write(tmp_path, "cat/a.jpg", "fox/b.jpg", "1/c.jpg", "2/d.jpg", "e.jpg")
    rows, rejects = catalogue(tmp_path, "folder", role)
    unknown = {
        f"{role}/fox/b.jpg",
        f"{role}/1/c.jpg",
        f"{role}/2/d.jpg",
        f"{role}/e.jpg",
    }  # a folder's name is no number
    if role == "labeled":
        assert rejects == dict.fromkeys(unknown, "unknown_class")
    known = {} if role == "pool" else {f"{role}/cat/a.jpg": 0}
    kept = {**dict.fromkeys(unknown | {f"{role}/cat/a.jpg"}), **known}
    assert classes_of(rows) == ({k: v for k, v in kept.items() if v is not None} if role == "labeled" else kept)


def test_a_shards_number_is_no_label(tmp_path: Path) -> None:
    """img2dataset and webdataset call their shards 00001.tar; read as class 1 it would be a silent wrong label."""
    bad_inputs.write_tar(
        tmp_path / "00001.tar",
        [("0001.jpg", bad_inputs.encode(bad_inputs.photo())), ("1/x.jpg", bad_inputs.encode(bad_inputs.photo(1)))],
    )
    rows, rejects = catalogue(tmp_path, "tar", "labeled")
    assert classes_of(rows) == {}
    assert rejects == dict.fromkeys(("labeled/00001.tar/0001.jpg", "labeled/00001.tar/1/x.jpg"), "unknown_class")


def test_every_planted_file_of_a_bad_folder_is_counted_once(tmp_path: Path) -> None:
    expected = bad_inputs.write_bad_folder(tmp_path / "cat")
    bad_inputs.write_undecodable(tmp_path / "cat")
    write(tmp_path, "cat/film.mp4", "cat/notes.txt", "cat/.hidden.jpg", "cat/good.xyz", ".git/x.jpg", "dog/readme.md")
    (tmp_path / "cat" / "broken_link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    rows, rejects = catalogue(tmp_path, "folder", "labeled")
    assert decoded(rows) == {f"labeled/cat/{name}": reason for name, reason in expected.items()}
    assert rejects == {
        "labeled/cat/caf\ufffd.jpg": "undecodable_name",
        "labeled/cat/film.mp4": "not_an_image",
        "labeled/cat/broken_link.jpg": "unreadable",
        "labeled/cat/pipe.jpg": "unreadable",
        "labeled/dog": "empty_class",
    }


def test_an_unreadable_folder_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "cat/a.jpg", "cat/locked/b.jpg", "dog/c.jpg", "fox/d.jpg")
    real = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith(("locked", "fox")):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(walk.os, "scandir", scandir)  # root may read everything, so a file mode would prove nothing
    rows, rejects = catalogue(tmp_path, "folder", "labeled")
    assert ids(rows) == {"labeled/cat/a.jpg", "labeled/dog/c.jpg"}
    assert rejects == {"labeled/cat/locked": "unreadable", "labeled/fox": "unreadable"}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "else", "a.jpg")
    write(tmp_path / "in", "cat/b.jpg")
    (tmp_path / "in/cat/linked").symlink_to(tmp_path / "else")
    (tmp_path / "in/cat/circle").symlink_to(tmp_path / "in/cat")
    rows, rejects = catalogue(tmp_path / "in", "folder")
    assert ids(rows) == {"pool/cat/b.jpg", "pool/cat/linked/a.jpg"}
    assert rejects == {"pool/cat/circle": "unreadable"}


def test_one_file_more_changes_one_slice(tmp_path: Path) -> None:
    write(tmp_path, *(f"cat/{i:03}.jpg" for i in range(200)), data=b"x")

    def digests() -> dict[str, str]:
        shards, _ = list_shards("pool", "pool", str(tmp_path), "folder", 16)
        assert all(0 < s.listing.num_rows <= 16 for s in shards)
        assert sum(s.listing.num_rows for s in shards) == len(list((tmp_path / "cat").iterdir()))
        return {s.name: s.digest for s in shards}

    before = digests()
    for name in ("aaa", "100b", "zzz"):
        write(tmp_path, f"cat/{name}.jpg", data=b"x")
        after = digests()
        assert len(before.items() - after.items()) == 1
        assert 1 <= len(after.items() - before.items()) <= 2  # two when the slice was full
        before = after


def test_a_digest_follows_the_files_but_not_the_place(tmp_path: Path) -> None:
    write(tmp_path / "here", "cat/a.jpg", "cat/b.jpg")

    def digest(folder: str) -> str:
        (shard,), _ = list_shards("pool", "pool", str(tmp_path / folder), "folder", 100)
        return shard.digest

    first = digest("here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert digest("there") == first
    os.utime(tmp_path / "there/cat/a.jpg", ns=(1, 1))
    assert digest("there") != first


# Tars


def test_a_bad_tar_keeps_what_precedes_the_damage(tmp_path: Path) -> None:
    expected = bad_inputs.write_bad_tar(tmp_path / "in" / "a.tar")
    rows, rejects = catalogue(tmp_path / "in", "tar")
    seen = {**decoded(rows), **rejects}
    assert seen == {f"pool/a.tar/{name}".rstrip("/"): reason for name, reason in expected.items()}
    assert not (tmp_path / "escape.jpg").exists()


def test_a_member_is_where_its_offset_says(tmp_path: Path) -> None:
    images = {f"{'long/' * 40}{i}.jpg": bad_inputs.encode(bad_inputs.photo(i)) for i in range(5)}
    bad_inputs.write_tar(tmp_path / "a.tar", [("./readme.txt", b"hello"), *((f"./{n}", d) for n, d in images.items())])
    rows, rejects = catalogue(tmp_path / "a.tar", "tar")
    raw = (tmp_path / "a.tar").read_bytes()
    assert rejects == {}
    found = {
        r["image_id"].removeprefix("pool/a.tar/"): raw[r["offset"] : r["offset"] + r["size_bytes"]]
        for r in rows.to_pylist()
    }
    assert found == images
    assert list(ImageReader().read_many(rows)) == list(images.values())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.97])
def test_a_tar_cut_anywhere_is_noticed(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(10):
            bad_inputs.add(archive, f"{i}.jpg", JPEG)
        end = archive.offset
    os.truncate(path, int(end * share))
    rows, rejects = catalogue(path, "tar")
    assert rejects == {"pool/a.tar": "truncated_archive"}
    assert rows.num_rows == int(end * share) // (end // 10)
    assert set(decoded(rows).values()) <= {None}


@pytest.mark.parametrize("damage", [b"", b"no tar at all", b"\x1f\x8b\x08" + b"z" * 2000])
def test_what_is_no_tar_is_one_reject(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, "a.tar", data=damage)
    rows, rejects = catalogue(tmp_path, "tar")
    assert (rows.num_rows, rejects) == (0, {"pool/a.tar": "truncated_archive"})


def test_damage_in_the_middle_of_a_tar_does_not_pass_for_its_end(tmp_path: Path) -> None:
    bad_inputs.write_tar(tmp_path / "a.tar", [(f"{i}.jpg", JPEG) for i in range(4)])
    data = bytearray((tmp_path / "a.tar").read_bytes())
    with tarfile.open(tmp_path / "a.tar") as archive:
        third = archive.getmembers()[2].offset
    data[third : third + 512] = b"?" * 512
    (tmp_path / "a.tar").write_bytes(data)
    rows, rejects = catalogue(tmp_path, "tar")
    assert (rows.num_rows, rejects) == (2, {"pool/a.tar": "truncated_archive"})


def test_webdataset_labels(tmp_path: Path) -> None:
    bad_inputs.write_tar(
        tmp_path / "a.tar",
        [
            ("1.cls", b"1\n"),
            ("1.jpg", JPEG),
            ("2.jpg", JPEG),
            ("2.json", json.dumps({"label": "cat"}).encode()),
            ("3.jpg", JPEG),
            ("3.json", b"{broken"),
            ("4.img.png", JPEG),
            ("4.cls", b"dog"),
            ("4.seg.npy", b"\0"),
            ("5.jpg", JPEG),
            ("5.cls", b"7"),
            ("dog/6.jpg", JPEG),
            ("7.mp4", b"film"),
        ],
    )
    rows, rejects = catalogue(tmp_path, "tar", "labeled")
    assert {k.removeprefix("labeled/a.tar/"): v for k, v in classes_of(rows).items()} == {
        "1.jpg": 1,
        "2.jpg": 0,
        "4.img.png": 1,
        "dog/6.jpg": 1,
    }
    assert {k.removeprefix("labeled/a.tar/"): v for k, v in rejects.items()} == {
        "3.jpg": "unknown_class",
        "5.jpg": "unknown_class",
        "7.mp4": "not_an_image",
    }


def test_a_tar_per_class_is_labelled_by_its_name(tmp_path: Path) -> None:
    for name in CLASSES:
        bad_inputs.write_tar(tmp_path / f"{name}.tar", [("a.jpg", JPEG)])
    rows, _ = catalogue(tmp_path, "tar", "labeled")
    assert classes_of(rows) == {"labeled/cat.tar/a.jpg": 0, "labeled/dog.tar/a.jpg": 1}


def test_a_large_tar_has_several_parts(tmp_path: Path) -> None:
    bad_inputs.write_tar(tmp_path / "in/a.tar", [(f"{i}.jpg", JPEG) for i in range(7)])
    rows, _ = catalogue(tmp_path, "tar", images_per_part=3)
    assert rows["part"].to_pylist() == [f"pool/in/a.tar#{i // 3}" for i in range(7)]


def test_tars_may_be_a_folder_one_file_or_a_glob(tmp_path: Path) -> None:
    for i in range(3):
        bad_inputs.write_tar(tmp_path / f"deep/p-{i}.tar", [("a.jpg", JPEG)])

    def names(uri: Path) -> list[str]:
        return [s.name for s in list_shards("pool", "pool", str(uri), "tar", 10)[0]]

    assert names(tmp_path) == [f"pool/deep/p-{i}.tar" for i in range(3)]
    assert names(tmp_path / "deep/p-1.tar") == ["pool/p-1.tar"]
    assert names(tmp_path / "deep/p-[12].tar") == ["pool/p-1.tar", "pool/p-2.tar"]


# Parquet


def image_table(kind: str, images: list[bytes | None]) -> pa.Table:
    labels = pa.array([str(i % 2) if kind == "text" else i % 2 for i in range(len(images))])
    if kind == "struct":
        return pa.table({"image": pa.array([{"bytes": d, "path": None} for d in images]), "label": labels})
    return pa.table({"jpg": pa.array(images, pa.large_binary()), "cls": labels})


@pytest.mark.parametrize("kind", ["struct", "bytes", "text"])
def test_parquet_rows_are_images(tmp_path: Path, kind: str) -> None:
    images = [bad_inputs.encode(bad_inputs.photo(i, 32, 32)) for i in range(150)]
    pq.write_table(image_table(kind, [*images, b"", None]), tmp_path / "a.parquet", row_group_size=70)
    rows, rejects = catalogue(tmp_path, "parquet", "labeled")
    assert rejects == {}
    assert [r["class_id"] for r in rows.to_pylist()] == [i % 2 for i in range(152)]
    assert rows["image_id"].to_pylist() == [f"labeled/a.parquet/{i}" for i in range(152)]
    assert list(ImageReader().read_many(rows.slice(0, 150), num_threads=3)) == images
    backwards = rows.take(pa.array([149, 3, 70, 69, 0, 148]))
    assert list(ImageReader().read_many(backwards)) == [images[i] for i in (149, 3, 70, 69, 0, 148)]
    assert [d.reason for d in ImageReader().read_many(rows.slice(150))] == ["empty_file"] * 2


def test_a_cut_parquet_is_one_reject(tmp_path: Path) -> None:
    pq.write_table(image_table("bytes", [JPEG] * 5), tmp_path / "a.parquet")
    pq.write_table(image_table("bytes", [JPEG] * 5), tmp_path / "b.parquet")
    os.truncate(tmp_path / "a.parquet", 3000)
    rows, rejects = catalogue(tmp_path, "parquet")
    assert (rows.num_rows, rejects) == (5, {"pool/a.parquet": "truncated_archive"})


def test_a_damaged_parquet_page_does_not_pass_for_an_image(tmp_path: Path) -> None:
    pq.write_table(
        image_table("bytes", [JPEG] * 200),
        tmp_path / "a.parquet",
        row_group_size=100,
        compression="zstd",
        use_dictionary=False,
    )
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0).data_page_offset
    data[middle : middle + 20] = b"?" * 20
    (tmp_path / "a.parquet").write_bytes(data)
    rows, rejects = catalogue(tmp_path, "parquet")
    assert rejects == {"pool/a.parquet": "truncated_archive"}
    assert rows.num_rows == 100 and set(decoded(rows).values()) == {None}


# Lists


def test_a_list_of_paths_and_labels(tmp_path: Path) -> None:
    write(tmp_path / "sub", "a.jpg", "my cat.jpg")
    write(tmp_path / "far", "b.jpg")
    lines = ["sub/a.jpg 1", "sub/my cat.jpg 0", f"{tmp_path}/far/b.jpg\tdog", "sub/a.jpg 0", "sub/gone.jpg 0", "", "a"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), encoding="utf-8")
    rows, rejects = catalogue(tmp_path / "list.txt", "list", "labeled")
    assert classes_of(rows) == {"labeled/sub/a.jpg": 1, "labeled/sub/my cat.jpg": 0, "labeled/far/b.jpg": 1}
    assert rejects == {
        "labeled/sub/a.jpg#2": "duplicate_name",
        "labeled/sub/gone.jpg": "unreadable",
        "labeled/a": "unreadable",
    }
    assert set(decoded(rows).values()) == {None}


def test_a_list_for_the_pool_needs_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "my cat.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\nmy cat.jpg\n", encoding="utf-8")
    rows, rejects = catalogue(tmp_path / "list.txt", "list")
    assert (ids(rows), rejects) == ({"pool/a.jpg", "pool/my cat.jpg"}, {})


def test_a_changed_label_changes_the_digest(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    digests = set()
    for label in "01":
        (tmp_path / "list.txt").write_text(f"a.jpg {label}\n", encoding="utf-8")
        digests.add(list_shards("labeled", "labeled", str(tmp_path / "list.txt"), "list", 10)[0][0].digest)
    assert len(digests) == 2


# Other file systems


@pytest.mark.parametrize("format", ["folder", "tar", "parquet", "list"])
def test_a_remote_input_gives_the_rows_of_the_local_one(tmp_path: Path, format: str) -> None:
    write(tmp_path, "folder/cat/a.jpg", "folder/dog/b.jpg")
    bad_inputs.write_tar(
        tmp_path / "tar/p.tar", [("cat/a.jpg", JPEG), ("dog/b.jpg", bad_inputs.encode(bad_inputs.photo(1)))]
    )
    (tmp_path / "parquet").mkdir()
    pq.write_table(image_table("struct", [JPEG, JPEG]), tmp_path / "parquet/a.parquet")
    (tmp_path / "list").write_text("folder/cat/a.jpg 0\nfolder/dog/b.jpg 1\n", encoding="utf-8")
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/store", recursive=True)
    try:
        local, _ = catalogue(tmp_path / format, format, "protected")
        remote, _ = catalogue(f"memory://store/{format}", format, "protected")
        same = ["image_id", "role", "offset", "size_bytes", "class_id", "part"]
        assert remote.select(same).to_pylist() == local.select(same).to_pylist()
        assert all(uri.startswith("memory://") for uri in remote["uri"].to_pylist())
        assert list(ImageReader().read_many(remote)) == list(ImageReader().read_many(local))
    finally:
        memory.rm("/store", recursive=True)


# Reading


def test_what_changed_since_the_catalog_is_a_reject(tmp_path: Path) -> None:
    write(tmp_path, "gone.jpg", "shorter.jpg", "same.jpg")
    rows, _ = catalogue(tmp_path, "folder")
    (tmp_path / "gone.jpg").unlink()
    os.truncate(tmp_path / "shorter.jpg", 100)
    found = dict(zip(rows["image_id"].to_pylist(), ImageReader().read_many(rows), strict=True))
    assert found["pool/gone.jpg"].reason == "unreadable"
    assert found["pool/shorter.jpg"].reason == "truncated_archive"
    assert found["pool/same.jpg"] == JPEG


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_failure_that_passes_costs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that went stale is asked again, with a new handle; one that stays away is a reject."""
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    monkeypatch.setattr("ssld_pipeline.inputs.read._PAUSE_S", 0.0)
    reader, failures, genuine = ImageReader(), [], os.pread

    def stale(descriptor: int, *where: int) -> bytes:
        if len(failures) < allowed:
            failures.append(descriptor)
            raise OSError(errno.ESTALE, "Stale file handle")
        return genuine(descriptor, *where)

    monkeypatch.setattr(os, "pread", stale)
    allowed = 1
    assert reader.read(str(tmp_path / "a.tar"), 2, 3) == b"234"
    allowed = 3
    with pytest.raises(BadImage, match="Stale file handle") as bad:
        reader.read(str(tmp_path / "a.tar"), 2, 3)
    assert bad.value.reason == "unreadable" and len(failures) == 3


def test_a_lost_connection_to_a_store_is_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class LostConnection(Exception):
        """As botocore's: no OSError."""

    def lose(*args: Any, **where: Any) -> bytes:
        raise LostConnection("could not connect to the endpoint")

    monkeypatch.setattr("ssld_pipeline.inputs.read._PAUSE_S", 0.0)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lose)
    with pytest.raises(BadImage, match="LostConnection: could not connect") as bad:
        ImageReader().read("memory://pool/a.jpg", 0, 10)
    assert bad.value.reason == "unreadable"
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda: b"")
    with pytest.raises(TypeError):  # a bug is no reject
        ImageReader().read("memory://pool/a.jpg", 0, 10)


def test_many_tars_leave_few_files_open(tmp_path: Path) -> None:
    for i in range(50):
        bad_inputs.write_tar(tmp_path / f"{i}.tar", [("a.jpg", JPEG)])
    rows, _ = catalogue(tmp_path, "tar")
    before = num_open_files()
    reader = ImageReader()
    assert all(d == JPEG for d in reader.read_many(rows, num_threads=4))
    assert num_open_files() - before <= 33
    del reader
    assert num_open_files() <= before


def test_work_ahead_is_bounded_and_in_order() -> None:
    started: list[int] = []
    results = ahead(lambda item: started.append(item) or item, range(100), 2)
    assert next(results) == 0
    assert len(started) <= 12
    assert list(results) == list(range(1, 100))


def test_a_bug_in_work_ahead_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0], 2))


# What the user got wrong


@pytest.mark.parametrize(
    ("format", "what", "said"),
    [
        ("folder", "nowhere", "cannot be read"),
        ("folder", "a_file", "it is a file"),
        ("folder", "empty", "holds nothing"),
        ("tar", "empty", "holds nothing"),
        ("tar", "packed", "compressed"),
        ("tar", "*.none", "holds nothing"),
        ("parquet", "other", "no column of images"),
        ("list", "empty", "it is a folder"),
        ("folder", "nosuch://bucket/x", "nosuch"),
    ],
)
def test_mistakes_get_one_clear_message(tmp_path: Path, format: str, what: str, said: str) -> None:
    write(tmp_path, "a_file", "packed/a.tar.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other/a.parquet")
    uri = what if "://" in what else f"{tmp_path}/{what}"
    with pytest.raises(UserError, match=said) as caught:
        list_shards("pool", "pool", uri, format, 10)
    assert what.split("/")[0] in str(caught.value)
