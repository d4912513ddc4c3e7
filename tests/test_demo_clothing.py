"""The clothing problem: nothing is lost, nothing leaks through a name, and every copy is told in the truth."""

import json
import tarfile
from collections import Counter

import numpy as np
import pytest

from ssld_pipeline.demo.clothing import prepare
from ssld_pipeline.demo.copies import KINDS
from ssld_pipeline.demo.encoding import write_tar
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.images import encode_jpeg


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clothing")
    rng = np.random.default_rng(0)
    for part, size in (("train", 7), ("validation", 6), ("test", 5)):
        for name in ("hat", "shoes"):
            (folder / part / name).mkdir(parents=True)
            for i in range(size):
                image = rng.integers(0, 256, (64, 80, 3), np.uint8)
                (folder / part / name / f"{part}-{i}.jpg").write_bytes(encode_jpeg(image))
    (folder / "pool").mkdir()
    write_tar(folder / "pool" / "pool-000.tar", [("a.jpg", encode_jpeg(rng.integers(0, 256, (64, 64, 3), np.uint8)))])
    return folder


def members_of(pool):
    found = {}
    for path in sorted(pool.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {f"pool/{path.name}/{m.name}": tar.extractfile(m).read() for m in tar.getmembers()}
    return found


def test_images_of_train_are_labelled_or_in_the_pool_once(source, tmp_path):
    truth = prepare(source, tmp_path / "out", 0, labeled_per_class=3, num_copies=19)
    labeled = {p.read_bytes() for p in (tmp_path / "out" / "labeled").rglob("*.jpg")}
    unaltered = truth["pool"].keys() - truth["copies"].keys()
    drawn = [data for name, data in members_of(tmp_path / "out" / "pool").items() if name in unaltered]
    everything = Counter(p.read_bytes() for p in (source / "train").rglob("*.jpg"))
    assert Counter([*labeled, *drawn]) == everything and len(labeled) == 6
    assert Counter(truth["pool"][i] for i in unaltered) == {"hat": 4, "shoes": 4}


def test_truth_tells_every_copy(source, tmp_path):
    truth = prepare(source, tmp_path / "out", 1, labeled_per_class=3, num_copies=19)
    members = members_of(tmp_path / "out" / "pool")
    assert members.keys() - truth["pool"].keys() == {"pool/pool-000.tar/a.jpg"}
    assert Counter(c["kind"] for c in truth["copies"].values()) == Counter(KINDS)
    for image_id, copy in truth["copies"].items():
        assert (members[image_id] == (tmp_path / "out" / copy["source"]).read_bytes()) == (copy["kind"] == "exact")
        assert truth["pool"][image_id] == copy["source"].split("/")[1]
    assert not [i for i in truth["pool"] if "hat" in i or "shoes" in i]
    assert json.loads((tmp_path / "out" / "truth.json").read_text()) == truth


def test_same_seed_same_problem(source, tmp_path):
    first, second = (prepare(source, tmp_path / n, 2, labeled_per_class=3, num_copies=5) for n in "ab")
    assert first == second and members_of(tmp_path / "a" / "pool") == members_of(tmp_path / "b" / "pool")


def test_wrong_folders_are_the_users_mistake(source, tmp_path):
    with pytest.raises(UserError, match="missing: train, validation, test, pool"):
        prepare(tmp_path, tmp_path / "out")
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        prepare(source, tmp_path)
