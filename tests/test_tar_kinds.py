"""Every kind of tar: each member is an image at its exact place in the file, or one reject that says why not."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import bad_inputs
import numpy as np
import pytest
from PIL import Image
from test_inputs import catalogue, classes_of, decoded, ids

from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.inputs.scan import scan
from ssld_pipeline.inputs.tar_members import Contents, read_contents

IMAGES = [bad_inputs.encode(bad_inputs.photo(seed)) for seed in range(8)]


def names(found: set[str] | dict[str, str]) -> set[str]:
    return {i.removeprefix("pool/a.tar").lstrip("/") for i in found}


def details(path: Path, role: str = "pool") -> dict[str, str]:
    (shard,), _ = list_shards(role, role, str(path), "tar", 100)
    return {r.image_id.removeprefix(f"{role}/a.tar").lstrip("/"): r.detail for r in scan(shard, ("cat", "dog"), 100)[1]}


def tar_of(*members: tuple[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in members:
            bad_inputs.add(archive, name, data)
    return buffer.getvalue()


def read_back(path: Path) -> dict[str, bytes]:
    rows, _ = catalogue(path, "tar")
    found = dict(zip(rows["image_id"].to_pylist(), ImageReader().read_many(rows), strict=True))
    assert all(isinstance(data, bytes) for data in found.values())
    return {name.removeprefix("pool/a.tar/"): data for name, data in found.items()}  # type: ignore[misc]


# Tars that were joined


@pytest.mark.parametrize("between", [0, 512, 1024, 3 * 512, 40 * 512, 5000 * 512])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_joined_tars_are_read_to_the_end(tmp_path: Path, between: int, format: int) -> None:
    pieces = [tar_of((f"{'long/' * 30}{i}.jpg", IMAGES[i]), format=format) for i in range(3)]
    (tmp_path / "a.tar").write_bytes(bytes(between).join(pieces))
    assert read_back(tmp_path / "a.tar") == {f"{'long/' * 30}{i}.jpg": IMAGES[i] for i in range(3)}
    assert catalogue(tmp_path / "a.tar", "tar")[1] == {}


@pytest.mark.parametrize("num_zero_blocks", [1, 2, 20])
def test_zeros_before_a_tar_and_within_it_are_skipped(tmp_path: Path, num_zero_blocks: int) -> None:
    member = tar_of(("0.jpg", IMAGES[0])).rstrip(b"\0")
    member += bytes(-len(member) % 512)
    (tmp_path / "a.tar").write_bytes(bytes(512 * num_zero_blocks) + member + bytes(512) + tar_of(("1.jpg", IMAGES[1])))
    assert read_back(tmp_path / "a.tar") == {"0.jpg": IMAGES[0], "1.jpg": IMAGES[1]}


def test_joined_tars_have_the_labels_of_both(tmp_path: Path) -> None:
    halves = [tar_of((f"{i}.jpg", IMAGES[i]), (f"{i}.cls", str(i).encode())) for i in range(2)]
    (tmp_path / "a.tar").write_bytes(b"".join(halves))
    rows, rejects = catalogue(tmp_path, "tar", "labeled")
    assert (classes_of(rows), rejects) == ({"labeled/a.tar/0.jpg": 0, "labeled/a.tar/1.jpg": 1}, {})


def test_the_same_name_in_both_halves_is_a_duplicate(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("0.jpg", IMAGES[0])) + tar_of(("0.jpg", IMAGES[1])))
    rows, rejects = catalogue(tmp_path, "tar")
    assert (names(ids(rows)), rejects) == ({"0.jpg"}, {"pool/a.tar/0.jpg#2": "duplicate_name"})


@pytest.mark.parametrize(
    "garbage", [b"no tar", b"?" * 511, b"?" * 5000, bytes(700) + b"x", random.Random(0).randbytes(9000)]
)
def test_what_follows_the_end_mark_and_is_no_tar_is_one_reject(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("0.jpg", IMAGES[0])) + garbage)
    rows, rejects = catalogue(tmp_path, "tar")
    assert (names(ids(rows)), rejects) == ({"0.jpg"}, {"pool/a.tar": "truncated_archive"})
    assert "behind an end-of-archive mark" in details(tmp_path / "a.tar")[""]


def test_damage_in_the_second_of_joined_tars_is_noticed(tmp_path: Path) -> None:
    second = tar_of(("1.jpg", IMAGES[1]), ("2.jpg", IMAGES[2]))
    for cut in (600, 1500, second.index(IMAGES[2]) + 100):
        (tmp_path / "a.tar").write_bytes(tar_of(("0.jpg", IMAGES[0])) + second[:cut])
        rows, rejects = catalogue(tmp_path, "tar")
        assert "0.jpg" in names(ids(rows)) and rejects == {"pool/a.tar": "truncated_archive"}
        assert set(decoded(rows).values()) == {None}


def test_zeros_to_the_end_are_the_end(tmp_path: Path) -> None:
    for extra in (0, 1, 511, 512, 3_000_000):
        (tmp_path / "a.tar").write_bytes(tar_of(("0.jpg", IMAGES[0])) + bytes(extra))
        rows, rejects = catalogue(tmp_path, "tar")
        assert (rows.num_rows, rejects) == (1, {})


def test_a_download_that_is_zeros_from_some_byte_on_is_truncated(tmp_path: Path) -> None:
    """Tools that reserve the whole file first leave zeros, which would pass for the end of the archive."""
    (tmp_path / "a.tar").write_bytes(tar_of(("0.jpg", IMAGES[0]), ("1.jpg", IMAGES[1])) + bytes(5_000_000))
    rows, rejects = catalogue(tmp_path, "tar")
    assert (rows.num_rows, rejects) == (2, {"pool/a.tar": "truncated_archive"})
    assert "a download that is not complete" in details(tmp_path / "a.tar")[""]


# Sparse members

needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
SPARSE = {
    "old GNU": ["--format=gnu"],
    "pax 1.0": ["--format=posix", "--sparse-version=1.0"],
    "pax 0.1": ["--format=posix", "--sparse-version=0.1"],
    "pax 0.0": ["--format=posix", "--sparse-version=0.0"],
}


def write_sparse(path: Path, data: bytes) -> None:
    """The file with holes where it has 4096 zeros at a multiple of 4096."""
    with path.open("wb") as file:
        for at in range(0, len(data), 4096):
            if data[at : at + 4096].strip(b"\0"):
                file.seek(at)
                file.write(data[at : at + 4096])
        file.truncate(len(data))


@needs_tar
@pytest.mark.parametrize("format", SPARSE)
def test_sparse_members_are_rejects_and_the_rest_is_read(tmp_path: Path, format: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    picture = np.zeros((600, 600, 3), np.uint8)
    for k in range(30):  # more pieces than fit into one header
        picture[20 * k : 20 * k + 3] = bad_inputs.photo(k, 600, 3)
    write_sparse(source / "1.bmp", bad_inputs.encode(Image.fromarray(picture), "BMP"))
    write_sparse(source / "3.bin", bytes(5_000_000))
    write_sparse(source / "4.txt", bytes(100_000) + b"text")
    for k in (0, 2, 5):
        (source / f"{k}.jpg").write_bytes(IMAGES[k])
    files = sorted(path.name for path in source.iterdir())
    subprocess.run(["tar", "-S", *SPARSE[format], "-C", source, "-cf", tmp_path / "a.tar", *files], check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1_000_000, "the file system keeps no holes"
    assert read_back(tmp_path / "a.tar") == {f"{k}.jpg": IMAGES[k] for k in (0, 2, 5)}
    _, rejects = catalogue(tmp_path / "a.tar", "tar")
    assert rejects == {"pool/a.tar/1.bmp": "unsupported_member", "pool/a.tar/3.bin": "not_an_image"}
    assert "holes" in details(tmp_path / "a.tar")["1.bmp"]


@needs_tar
@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_cut_tar_of_sparse_members_is_truncated(tmp_path: Path, format: str, share: float) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for k in range(5):
        write_sparse(source / f"{k}.bmp", bytes(8192) + random.Random(k).randbytes(8192) + bytes(8192))
    (source / "9.jpg").write_bytes(IMAGES[0])
    files = sorted(path.name for path in source.iterdir())
    subprocess.run(["tar", "-S", *SPARSE[format], "-C", source, "-cf", tmp_path / "a.tar", *files], check=True)
    end = (tmp_path / "a.tar").read_bytes().rindex(IMAGES[0][-20:]) + 20
    os.truncate(tmp_path / "a.tar", int(end * share))
    rows, rejects = catalogue(tmp_path / "a.tar", "tar")
    assert rows.num_rows == 0 and rejects["pool/a.tar"] == "truncated_archive"


def test_a_member_called_sparse_without_a_hole_is_read(tmp_path: Path) -> None:
    data = IMAGES[0]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.jpg")
        member.size = len(data)
        half = len(data) // 2
        member.pax_headers = {
            "GNU.sparse.map": f"0,{half},{half},{len(data) - half}",
            "GNU.sparse.size": str(len(data)),
            "GNU.sparse.numblocks": "2",
        }
        archive.addfile(member, io.BytesIO(data))
        bad_inputs.add(archive, "1.jpg", IMAGES[1])
    assert read_back(tmp_path / "a.tar") == {"0.jpg": data, "1.jpg": IMAGES[1]}


# Links


def add_link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


def test_links_to_members_are_read_as_these(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_link(archive, "x/before.jpg", "../real/a.jpg")
        bad_inputs.add(archive, "./real/a.jpg", IMAGES[0])
        add_link(archive, "x/hard.jpg", "real/a.jpg", tarfile.LNKTYPE)
        add_link(archive, "x/hard2.jpg", "./real/a.jpg", tarfile.LNKTYPE)
        add_link(archive, "chain.jpg", "x/before.jpg")
        add_link(archive, "./again.jpg", "./chain.jpg")
    expected = ("x/before.jpg", "real/a.jpg", "x/hard.jpg", "x/hard2.jpg", "chain.jpg", "again.jpg")
    assert read_back(tmp_path / "a.tar") == dict.fromkeys(expected, IMAGES[0])
    assert catalogue(tmp_path / "a.tar", "tar")[1] == {}


def test_links_to_nothing_and_in_circles_are_one_reject_each(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        bad_inputs.add(archive, "sub/a.jpg", IMAGES[0])
        for name, target in (
            ("gone.jpg", "nowhere.jpg"),
            ("outside.jpg", "../a.jpg"),
            ("absolute.jpg", "/etc/a.jpg"),
            ("self.jpg", "self.jpg"),
            ("one.jpg", "two.jpg"),
            ("two.jpg", "one.jpg"),
            ("note.txt", "nowhere.txt"),
            ("folder", "sub"),
        ):
            add_link(archive, name, target)
        add_link(archive, "hard.jpg", "nowhere.jpg", tarfile.LNKTYPE)
    rows, rejects = catalogue(tmp_path, "tar")
    assert names(ids(rows)) == {"sub/a.jpg"}
    lost = ("gone", "outside", "absolute", "self", "one", "two", "hard")
    assert rejects == dict.fromkeys((f"pool/a.tar/{n}.jpg" for n in lost), "unsupported_member")
    assert details(tmp_path / "a.tar")["gone.jpg"] == "a link to nowhere.jpg, which is no file of this tar"


@needs_tar
def test_the_tar_of_a_folder_has_the_images_of_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("cat", "dog"):
        (source / folder).mkdir(parents=True)
        (source / folder / "own.jpg").write_bytes(IMAGES[folder == "dog"])
    os.link(source / "cat/own.jpg", source / "dog/hard.jpg")
    (source / "dog/soft.jpg").symlink_to("../cat/own.jpg")
    subprocess.run(["tar", "-C", source, "-cf", tmp_path / "a.tar", "."], check=True)
    of_tar, of_folder = (catalogue(*which, "labeled") for which in ((tmp_path / "a.tar", "tar"), (source, "folder")))
    assert of_tar[1] == of_folder[1] == {}
    assert {i.replace("/a.tar", ""): c for i, c in classes_of(of_tar[0]).items()} == classes_of(of_folder[0])
    assert set(decoded(of_tar[0]).values()) == {None}


def test_a_linked_label_counts(tmp_path: Path) -> None:
    """Tools that store equal files once make hard links of equal labels."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for k in range(3):
            bad_inputs.add(archive, f"{k}.jpg", IMAGES[k])
            if k:
                add_link(archive, f"{k}.cls", "0.cls", tarfile.LNKTYPE)
            else:
                bad_inputs.add(archive, "0.cls", b"1")
    rows, rejects = catalogue(tmp_path, "tar", "labeled")
    assert (set(classes_of(rows).values()), rows.num_rows, rejects) == ({1}, 3, {})


def test_devices_and_unknown_kinds_named_like_images_are_rejects(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.FIFOTYPE), ("b.jpg", tarfile.CHRTYPE), ("c.jpg", b"M"), ("d.jpg", b"5")):
            add_link(archive, name, "", kind)
        add_link(archive, "volume", "", b"V")
        bad_inputs.add(archive, "e.jpg", IMAGES[0])
    rows, rejects = catalogue(tmp_path, "tar")
    assert names(ids(rows)) == {"e.jpg"}
    assert rejects == dict.fromkeys((f"pool/a.tar/{n}.jpg" for n in "abc"), "unsupported_member")


# Archives in archives, and what only looks like a tar


def test_archives_within_a_tar_are_rejects_that_say_what_to_do(tmp_path: Path) -> None:
    inner = tar_of(("0.jpg", IMAGES[0]))
    bad_inputs.write_tar(
        tmp_path / "a.tar",
        [
            ("n01.tar", inner),
            ("N02.TAR", inner),
            ("b.tar.gz", gzip.compress(inner)),
            ("c.zip", b"PK"),
            ("1.jpg", IMAGES[1]),
        ],
    )
    rows, rejects = catalogue(tmp_path, "tar")
    assert names(ids(rows)) == {"1.jpg"}
    assert rejects == dict.fromkeys(
        (f"pool/a.tar/{n}" for n in ("n01.tar", "N02.TAR", "b.tar.gz", "c.zip")), "nested_archive"
    )
    assert "unpack" in details(tmp_path / "a.tar")["n01.tar"]


@pytest.mark.parametrize(("kind", "suffix"), [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz")])
def test_a_compressed_tar_under_the_name_of_a_plain_one_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{suffix}") as archive:
        bad_inputs.add(archive, "0.jpg", IMAGES[0])
    rows, rejects = catalogue(tmp_path, "tar")
    assert (rows.num_rows, rejects) == (0, {"pool/a.tar": "truncated_archive"})
    assert f"a {kind} file" in details(tmp_path / "a.tar")[""]


# Damage


def test_damaged_headers_never_end_the_scan() -> None:
    """Reading ends and raises nothing, for any bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for k in range(3):
            member = tarfile.TarInfo(f"{'é' * 60}/{k}.jpg")
            member.size = 700
            sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000"}
            member.pax_headers = {"comment": "x" * 300, **(sparse if k == 1 else {})}
            archive.addfile(member, io.BytesIO(b"1\n0\n700\n".ljust(700, b"\0")))
    whole, draw = buffer.getvalue(), random.Random(0)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data) // 2)] = draw.randrange(256)
        data = data[: draw.choice([len(data), draw.randrange(1, len(data))])]
        contents = Contents()
        read_contents(io.BytesIO(bytes(data)), len(data), contents, True)
        assert all(m.problem or 0 <= m.offset <= m.offset + m.size_bytes <= len(data) for m in contents.members)


def test_what_is_lost_is_estimated_from_the_bytes_that_are_not_read(tmp_path: Path) -> None:
    data = bytearray(tar_of(*((f"{k:03}.jpg", IMAGES[0]) for k in range(100))))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        at = archive.getmembers()[10].offset
    data[at : at + 512] = b"?" * 512
    (tmp_path / "a.tar").write_bytes(data)
    (shard,), _ = list_shards("pool", "pool", str(tmp_path), "tar", 100)
    rows, (reject,) = scan(shard, (), 100)
    assert rows.num_rows == 10 and reject.reason == "truncated_archive"
    assert 85 <= reject.num_images <= 95
