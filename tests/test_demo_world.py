"""The drawn world is deterministic, agrees with its truth, and is drawn again exactly when it is not whole."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssld_pipeline.config.load import load_config
from ssld_pipeline.demo.copies import KINDS
from ssld_pipeline.demo.encoding import decode_jpeg
from ssld_pipeline.demo.shapes import SHAPES
from ssld_pipeline.demo.world import CLASSES, write_world
from ssld_pipeline.errors import UserError

SMALL = {
    "labeled_per_class": 2,
    "protected_per_class": 3,
    "teacher_per_class": 2,
    "num_pool": 70,
    "num_copies": 19,
    "images_per_shard": 40,
}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pool_members(inputs: Path) -> dict[str, bytes]:
    members = {}
    for shard in sorted((inputs / "pool").iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                members[f"pool/{shard.name}/{member.name}"] = tar.extractfile(member).read()
    return members


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, write_world(folder, seed=3, num_workers=1, **SMALL)


def test_same_seed_same_bytes_whatever_the_number_of_workers(world, tmp_path):
    folder, truth = world
    again = write_world(tmp_path / "again", seed=3, num_workers=2, **SMALL)
    assert again == truth
    assert digests(tmp_path / "again") == digests(folder)


def test_another_seed_is_another_world(world, tmp_path):
    other = write_world(tmp_path, seed=4, num_workers=1, **{**SMALL, "num_pool": 25})
    ours, theirs = digests(world[0] / "inputs" / "train"), digests(tmp_path / "inputs" / "train")
    assert ours.keys() == theirs.keys() and not set(ours.values()) & set(theirs.values())
    assert not set(other["pool"]) & set(world[1]["pool"])


def test_truth_names_every_pool_image_once(world):
    folder, truth = world
    members = pool_members(folder / "inputs")
    assert members.keys() == truth["pool"].keys() and len(members) == SMALL["num_pool"]
    assert json.loads((folder / "inputs" / "truth.json").read_text()) == truth
    drawn = [shape for name, shape in truth["pool"].items() if name not in truth["copies"]]
    assert Counter(drawn)[None] == round(0.35 * len(drawn)) and set(drawn) == {None, *CLASSES}


def test_no_pool_name_tells_a_class(world):
    assert not [name for name in world[1]["pool"] for shape in CLASSES if shape in name]


def test_copies_point_at_protected_images_and_exact_ones_have_their_bytes(world):
    folder, truth = world
    members = pool_members(folder / "inputs")
    assert Counter(c["kind"] for c in truth["copies"].values()) == Counter(KINDS)
    for image_id, copy in truth["copies"].items():
        role, shape, name = copy["source"].split("/")
        original = (folder / "inputs" / "validation" / shape / name).read_bytes()
        assert role == "protected" and truth["pool"][image_id] == shape
        assert (members[image_id] == original) == (copy["kind"] == "exact")


def test_class_folders_hold_what_was_asked_for(world):
    inputs = world[0] / "inputs"
    for part, size in (("train", 2), ("validation", 3), ("teacher", 2)):
        assert sorted(p.name for p in (inputs / part).iterdir()) == sorted(CLASSES)
        assert {len(list(p.glob("*.jpg"))) for p in (inputs / part).iterdir()} == {size}


def test_every_picture_differs_and_has_keypoints(world):
    sift = cv2.SIFT_create(contrastThreshold=0.01)
    counts = []
    for data in pool_members(world[0] / "inputs").values():
        grey = np.array(Image.open(io.BytesIO(data)).convert("L"))
        scale = 256 / max(grey.shape)
        counts.append(len(sift.detect(cv2.resize(grey, None, fx=scale, fy=scale))))
    assert np.quantile(counts, 0.05) >= 50
    assert len(set(digests(world[0] / "inputs" / "teacher").values())) == 2 * len(CLASSES)


def test_config_beside_the_world_names_what_was_drawn(world):
    config = load_config(world[0] / "demo.yaml")
    for _, item in config.named_inputs().values():
        assert Path(item.uri).is_relative_to(world[0]) and Path(item.uri).is_dir()
    assert {role for role, _ in config.named_inputs().values()} == {"labeled", "protected", "pool", "teacher"}


def test_whole_world_is_left_alone_and_the_users_config_with_it(world):
    folder, truth = world
    before = {p: p.stat().st_mtime_ns for p in (folder / "inputs").rglob("*")}
    (folder / "demo.yaml").write_text("mine: true\n")
    assert write_world(folder, seed=3, num_workers=1, **SMALL) == truth
    assert {p: p.stat().st_mtime_ns for p in (folder / "inputs").rglob("*")} == before
    assert (folder / "demo.yaml").read_text() == "mine: true\n"


TINY = {
    "labeled_per_class": 1,
    "protected_per_class": 1,
    "teacher_per_class": 1,
    "num_pool": 20,
    "num_copies": 1,
    "images_per_shard": 40,
}


def test_damaged_or_interrupted_world_is_drawn_again(tmp_path):
    (tmp_path / "inputs.drawing" / "pool").mkdir(parents=True)
    (tmp_path / "inputs.drawing" / "pool" / "pool-000.tar").write_bytes(b"half")
    write_world(tmp_path, num_workers=1, **TINY)
    whole = digests(tmp_path)
    (tmp_path / "inputs" / "train" / "star" / "0000.jpg").unlink()
    write_world(tmp_path, num_workers=1, **TINY)
    assert digests(tmp_path) == whole


def test_what_no_demo_wrote_is_never_touched(tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="no demo wrote"):
        write_world(tmp_path, num_workers=1, **TINY)
    assert digests(tmp_path) == {"inputs/mine.jpg": hashlib.sha256(b"precious").hexdigest()}


def test_classes_are_the_drawn_shapes_in_the_order_of_class_folders():
    assert list(CLASSES) == sorted(SHAPES)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="not an image"):
        decode_jpeg(b"nothing of the kind")
