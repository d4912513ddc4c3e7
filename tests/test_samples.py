"""Which images of a webdataset sample are images of the catalog, and which take the sample's label."""

from __future__ import annotations

from pathlib import Path

import bad_inputs
import pytest
from test_inputs import catalogue, classes_of, ids

from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.inputs.samples import samples
from ssld_pipeline.inputs.scan import scan

JPEG = bad_inputs.encode(bad_inputs.photo())


def scanned(folder: Path, role: str, *names: str) -> tuple[dict[str, int | None], dict[str, str]]:
    """Class of each image and reason of each reject, by member name; a .cls holds 1."""
    bad_inputs.write_tar(
        folder / "a.tar", [(n, b"1" if n.endswith((".cls", ".json", ".txt", ".npy")) else JPEG) for n in names]
    )
    rows, rejects = catalogue(folder, "tar", role)
    bare = f"{role}/a.tar/"
    return {k.removeprefix(bare): v for k, v in classes_of(rows).items()}, {
        k.removeprefix(bare): v for k, v in rejects.items()
    }


@pytest.mark.parametrize("role", ["labeled", "protected", "pool"])
@pytest.mark.parametrize("folder", ["", "deep/er/"])
def test_the_plain_image_is_the_picture_and_the_others_are_companions(tmp_path: Path, role: str, folder: str) -> None:
    members = [folder + n for n in ("0.jpg", "0.seg.png", "0.thumb.jpg", "0.other.png", "0.1.jpg", "0.cls", "1.jpg")]
    found, rejects = scanned(tmp_path, role, *members, folder + "1.cls")
    expected = None if role == "pool" else 1
    assert found == {folder + "0.jpg": expected, folder + "1.jpg": expected}
    assert rejects == dict.fromkeys(members[1:5], "companion")


def test_masks_and_thumbnails_are_companions_without_a_label_file(tmp_path: Path) -> None:
    members = ("0.jpg", "0.seg.png", "0.thumb.jpg", "0.left.mask.png", "0.mask_1.png", "0.SEG.PNG", "0.Depth-Map.png")
    found, rejects = scanned(tmp_path, "pool", *members)
    assert (found.keys(), rejects) == ({"0.jpg"}, dict.fromkeys(members[1:], "companion"))


@pytest.mark.parametrize(
    "members",
    [
        ("a.jpg", "a.1.jpg"),
        ("a.jpg", "a.1.jpg", "a.2.jpg", "a.copy.jpg", "a.edited.JPG"),
        ("my.photo.1.jpg", "my.photo.2.jpg", "my.jpg"),
        ("v1.0.jpg", "v1.1.jpg", "v1.2.png"),
        ("a.jpg", "a.png"),
        ("a.jpg", "a.1.jpg", "b.json", "b.jpg"),
        ("a.jpg", "b/a.seg.png"),
        ("segment.1.jpg", "segment.jpg", "masked.jpg", "masked.2.jpg"),
        ("a.masked.jpg", "a.jpg"),
        ("0a1b", "0a1c"),
        ("a.jpg", "a.1.jpg", "a.xmp", "a.pdf"),
    ],
)
def test_a_plain_tar_of_photographs_keeps_all_of_them(tmp_path: Path, members: tuple[str, ...]) -> None:
    found, rejects = scanned(tmp_path, "pool", *members)
    images = {m for m in members if not m.endswith((".json", ".xmp", ".pdf"))}
    assert (found.keys(), rejects) == (images, {})


def test_an_image_with_a_label_of_its_own_is_a_sample_of_its_own(tmp_path: Path) -> None:
    found, rejects = scanned(
        tmp_path,
        "labeled",
        "a.jpg",
        "a.cls",
        "a.1.jpg",
        "a.1.cls",
        "a.2.png",
        "a.2.json",
        "a.3.jpg",
        "a.seg.png",
        "a.seg.json",
    )
    assert (found, rejects) == (
        {"a.jpg": 1, "a.1.jpg": 1},
        {"a.2.png": "unknown_class", "a.3.jpg": "companion", "a.seg.png": "companion"},
    )


def test_a_label_of_several_pictures_is_of_none_of_them(tmp_path: Path) -> None:
    found, rejects = scanned(tmp_path, "labeled", "a.left.jpg", "a.right.jpg", "a.cls", "b.img.png", "b.cls")
    assert (found, rejects) == ({"b.img.png": 1}, dict.fromkeys(("a.left.jpg", "a.right.jpg"), "unknown_class"))
    (shard,), _ = list_shards("labeled", "labeled", str(tmp_path), "tar", 100)
    details = {r.detail for r in scan(shard, ("cat", "dog"), 100)[1]}
    assert details == {"the label of a may be of any of a.left.jpg, a.right.jpg"}


@pytest.mark.parametrize("role", ["protected", "pool"])
def test_several_pictures_of_a_sample_stay_images(tmp_path: Path, role: str) -> None:
    found, rejects = scanned(tmp_path, role, "a.left.jpg", "a.right.jpg", "a.cls")
    assert (found, rejects) == (dict.fromkeys(("a.left.jpg", "a.right.jpg")), {})


def test_several_pictures_of_a_class_folder_have_its_class(tmp_path: Path) -> None:
    found, rejects = scanned(tmp_path, "labeled", "cat/a.left.jpg", "cat/a.right.jpg", "cat/a.txt")
    assert (found, rejects) == ({"cat/a.left.jpg": 0, "cat/a.right.jpg": 0}, {})


def test_the_only_picture_among_masks_takes_the_label(tmp_path: Path) -> None:
    found, rejects = scanned(
        tmp_path, "labeled", "a.rgb.jpg", "a.seg.png", "a.depth.png", "a.cls", "b.seg.png", "b.cls"
    )
    assert found == {"a.rgb.jpg": 1, "b.seg.png": 1}
    assert rejects == {"a.seg.png": "companion", "a.depth.png": "companion"}


def test_of_two_plain_images_the_jpeg_is_the_picture(tmp_path: Path) -> None:
    found, rejects = scanned(tmp_path, "labeled", "a.png", "a.jpg", "a.cls", "b.webp", "b.png", "b.cls")
    assert found == {"a.jpg": 1}
    assert rejects == {"a.png": "companion", "b.webp": "unknown_class", "b.png": "unknown_class"}


def test_a_companion_is_not_counted_as_lost(tmp_path: Path) -> None:
    bad_inputs.write_tar(tmp_path / "a.tar", [("0.jpg", JPEG), ("0.seg.png", JPEG), ("0.cls", b"1")])
    (shard,), _ = list_shards("labeled", "labeled", str(tmp_path), "tar", 100)
    rows, (reject,) = scan(shard, ("cat", "dog"), 100)
    assert (len(ids(rows)), reject.reason, reject.num_lost) == (1, "companion", 0)
    assert reject.detail == "belongs to the sample of 0.jpg"


def test_a_million_plain_names_are_sorted_out_in_seconds() -> None:
    names = [f"n{k % 1000:08}/n{k % 1000:08}_{k}.JPEG" for k in range(200_000)]
    assert samples(names, names) == ({}, {})
