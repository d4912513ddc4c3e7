"""Copies are looked for in each input as if it were the only one: what is reported of one hides nothing of another."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import encoded, picture
from test_dedupe import SIZE, build, catalog_rows, config, opened

from ssld_pipeline.copies.index.protected_index import open_indexes
from ssld_pipeline.copies.planted.canaries import Canary
from ssld_pipeline.stages import check_dedupe, find_copies
from ssld_pipeline.stages.canaries import Trial, judge
from ssld_pipeline.stages.find_copies import pairs_of, search_settings
from ssld_pipeline.stages.stage import Setup

REPORTED = {"against": ["protected", "labeled"], "report_only": ["labeled"]}
PROTECTED = {f"protected/{i}": encoded(picture(i, *SIZE)) for i in range(8)}


def shrunk(image, width, quality=70):
    size = (width, round(width * image.shape[0] / image.shape[1]))
    return encoded(cv2.resize(image, size, interpolation=cv2.INTER_AREA), quality)


def verdicts(index, folder, images, **settings):
    rows = opened(index, **settings)(catalog_rows(folder, images)).rows.to_pylist()
    return {(row["image_id"], row["protected_id"]): row["verdict"] for row in rows}


def evidence(index, folder, images):
    setup = Setup(config(), (), {"index_protected": index}, 1)
    rows = find_copies.STAGE.open(setup)(catalog_rows(folder, images)).rows.to_pylist()
    return sorted(rows, key=lambda row: (row["image_id"], row["protected_id"]))


def removed(found):
    return {image for (image, _), verdict in found.items() if verdict == "copy"}


def test_the_bytes_of_a_labelled_copy_of_a_protected_image_are_removed(tmp_path):
    twin = shrunk(picture(3, *SIZE), 300)
    index, _, _ = build(tmp_path / "index", PROTECTED | {"labeled/twin": twin})
    found = verdicts(index, tmp_path / "pool", {"pool/x": twin}, **REPORTED)
    assert found["pool/x", "labeled/twin"] == "reported" and found["pool/x", "protected/3"] == "copy"


def test_many_labelled_copies_crowd_out_no_protected_image(tmp_path):
    twins = {f"labeled/{k}": shrunk(picture(3, *SIZE), 300 - 4 * k, 60 + 3 * k) for k in range(9)}
    index, _, _ = build(tmp_path / "index", PROTECTED | twins)
    copies = {"pool/smaller": shrunk(picture(3, *SIZE), 280), "pool/crop": encoded(picture(3, *SIZE)[30:210, 50:290])}
    found = verdicts(index, tmp_path / "pool", copies, **REPORTED)
    assert removed(found) == set(copies)
    assert {found[image, "protected/3"] for image in copies} == {"copy"}


@pytest.mark.slow
def test_what_is_found_of_an_input_does_not_depend_on_another(tmp_path):
    """Labelled twins of what is protected, as many as would put its key points on the stop list or take all places
    among the nearest, and labelled grounds of which protected pictures are insets."""

    def with_inset(i):
        ground = cv2.resize(picture(50 + i, *SIZE), (1280, 960))
        ground[40:184, 60:252] = cv2.resize(picture(i, *SIZE), (192, 144), interpolation=cv2.INTER_AREA)
        return encoded(ground, 85)

    pool = {f"pool/inset {i}": with_inset(i) for i in range(8)}
    pool |= {f"pool/cut {i}": encoded(picture(i, *SIZE)[40:230, 30:260], 60) for i in range(8)}
    labeled = {f"labeled/ground {i}": encoded(picture(50 + i, *SIZE)) for i in range(8)}
    labeled |= {f"labeled/twin {i} {k}": shrunk(picture(i, *SIZE), 310 - 5 * k) for i in range(2) for k in range(12)}
    alone, _, _ = build(tmp_path / "alone", PROTECTED)
    both, _, _ = build(tmp_path / "both", PROTECTED | labeled)
    found = [evidence(index, tmp_path / index.parent.name / "pool", pool) for index in (alone, both)]
    assert [row for row in found[1] if row["protected_id"].startswith("protected/")] == found[0]
    assert {row["protected_id"].split("/")[0] for row in found[1]} == {"protected", "labeled"}
    gone = removed(verdicts(both, tmp_path / "again", pool, **REPORTED))
    assert gone >= {f"pool/cut {i}" for i in range(8)} and sum("inset" in image for image in gone) >= 4


def test_a_few_key_points_are_no_reason_against_a_picture_alike_as_a_whole(tmp_path):
    def soft(seed):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
        return cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)

    own = {f"protected/{i}": encoded(soft(i)) for i in range(12)}
    index, _, _ = build(tmp_path / "index", own)
    alter = {
        "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 4),
        "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
        "darker": lambda image: (255 * (image / 255) ** 1.8).astype(np.uint8),
    }
    copies = {f"pool/{name} {i}": encoded(way(soft(i)), 40) for name, way in alter.items() for i in range(12)}
    others = {f"pool/other {i}": encoded(soft(100 + i)) for i in range(24)}
    found = verdicts(index, tmp_path / "pool", copies | others)
    assert all(image.split()[1] == other.split("/")[1] for (image, other), v in found.items() if v == "copy")
    assert len(removed(found)) >= 0.9 * len(copies)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [REPORTED, {"against": ["protected", "labeled"]}])
def test_canaries_are_of_images_whose_copies_are_removed(tmp_path, settings):
    images = PROTECTED | {f"labeled/{i}": encoded(picture(60 + i, *SIZE)) for i in range(30)}
    # A labelled copy of each protected image: to be found as a copy of that alone would leave the leak in the pool.
    images |= {f"labeled/twin{i}": shrunk(picture(i, *SIZE), 300) for i in range(8)}
    index, _, _ = build(tmp_path / "index", images)
    folder = tmp_path / "check"
    folder.mkdir()
    setup = Setup(config(canaries=31, **settings), (), {"index_protected": index}, 1)
    check_dedupe.STAGE.build(setup, catalog_rows(tmp_path / "again", images), folder)
    rows = pq.read_table(folder / "canaries.parquet").to_pylist()
    inputs = {name.split("/")[0] for row in rows for name in (row["protected_id"], row["matched_id"] or "protected/")}
    assert inputs == ({"protected"} if settings is REPORTED else {"protected", "labeled"})
    assert sum(row["is_found"] for row in rows) > 25


def test_what_is_found_as_a_copy_of_a_reported_image_alone_is_not_found(tmp_path):
    index, _, _ = build(tmp_path / "index", {"labeled/3": encoded(picture(3, *SIZE))})
    data = shrunk(picture(3, *SIZE), 280)
    pairs = pairs_of("canary/00000", data, open_indexes(index, 4), search_settings(config().dedupe))
    trial = Trial(Canary(0, "protected/3", "resize"), data, pairs)
    for settings, expected in ((REPORTED, False), ({"against": ["protected", "labeled"]}, True)):
        (row,) = judge([trial], config(**settings)).to_pylist()
        assert row["is_found"] is expected and row["is_right"] is False


def test_an_input_may_have_any_name_and_an_index_of_nothing_is_files_too(tmp_path):
    """A name that no URI holds, two that differ in case alone; and a remote store, which knows no empty folder."""
    names = ("a::b", "Val", "val")
    images = {f"{name}/{i}": encoded(picture(10 * n + i, *SIZE)) for n, name in enumerate(names) for i in range(2)}
    index, _, _ = build(tmp_path / "index", images)
    assert sorted(path.name for path in index.iterdir()) == ["0", "1", "2", "inputs.json"]
    found = {image_id for own in open_indexes(index, 4) for image_id in own.image_ids}
    assert found == images.keys()
    empty, _, _ = build(tmp_path / "empty", {})
    assert any(path.is_file() for path in empty.iterdir()) and open_indexes(empty, 4) == []
