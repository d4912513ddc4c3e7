import bad_inputs
import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from drawn import encoded, picture
from PIL import Image

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, DUPLICATES
from ssld_pipeline.errors import UserError
from ssld_pipeline.stages import dedupe, find_copies, index_protected
from ssld_pipeline.stages.stage import PartResult, Setup

NUM_PROTECTED = 12
SIZE = (320, 240)


def config(**settings):
    inputs = {role: {"uri": f"unused/{role}", "format": "folder"} for role in ("labeled", "protected", "pool")}
    return RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": inputs,
            "teacher": {"model": "timm:none", "weights": "unused"},
            "student": {"model": "timm:none"},
            "dedupe": settings,
        }
    )


def catalog_rows(folder, images):
    folder.mkdir()
    rows = []
    for number, (image_id, data) in enumerate(images.items()):
        path = folder / f"{number}.jpg"
        path.write_bytes(data)
        rows.append({"image_id": image_id, "role": "pool", "uri": str(path), "offset": 0, "size_bytes": len(data)})
    names = ("image_id", "role", "uri", "offset", "size_bytes")
    return pa.Table.from_pylist(rows, pa.schema([CATALOG.schema().field(name) for name in names]))


def build(folder, images, num_threads=1):
    folder.mkdir()
    rows = catalog_rows(folder / "files", images)
    (folder / "index").mkdir()
    figures, rejects = index_protected.STAGE.build(Setup(config(), (), {}, num_threads), rows, folder / "index")
    return folder / "index", figures, rejects


def opened(index, num_threads=1, **settings):
    """Evidence and decision in one: catalog rows to ``duplicates`` rows."""
    setup = Setup(config(**settings), (), {"index_protected": index}, num_threads)
    work = find_copies.STAGE.open(setup)

    def decided(rows):
        found = work(rows)
        return PartResult(decide(found.rows, setup.config), found.rejects)

    return decided


def decide(pairs, config):
    connection = duckdb.connect()
    connection.register("pairs", pairs.append_column("part", pa.array(["pool/a#0"] * len(pairs), pa.string())))
    rows = dedupe.STAGE.query(connection, config)
    return rows.cast(DUPLICATES.row_schema())


def stamped(image):
    """With the watermark of a site."""
    image = image.copy()
    for y in (60, 130, 200):
        cv2.putText(image, "photo-stock", (30, y), cv2.FONT_HERSHEY_DUPLEX, 1.4, (255, 255, 255), 2)
    return image


def framed(image):
    rim = np.random.default_rng(1).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    page = cv2.resize(rim, SIZE, interpolation=cv2.INTER_CUBIC)
    page[24:216, 24:296] = cv2.resize(image, (272, 192), interpolation=cv2.INTER_AREA)
    return page


def original(number):
    disguise = {0: stamped, 1: stamped, 2: framed, 3: framed}.get(number, lambda image: image)
    return disguise(picture(number, *SIZE))


def rotated(image, degrees):
    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), degrees, 1)
    return cv2.warpAffine(image, turn, image.shape[1::-1])


def written_on(image):
    image = image.copy()
    for y in (50, 210):
        cv2.putText(image, "when you see it", (10, y), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 3)
    return image


def among_others(image):
    """In the middle of three by three pictures."""
    cells = [picture(700 + number, *SIZE) for number in range(9)]
    cells[4] = image
    small = [cv2.resize(cell, (130, 98), interpolation=cv2.INTER_AREA) for cell in cells]
    return np.vstack([np.hstack(small[row : row + 3]) for row in (0, 3, 6)])


def on_a_page(image):
    """The tenth of 48 small pictures, in eight rows."""
    pictures = [*(picture(720 + n, *SIZE) for n in range(9)), image, *(picture(740 + n, *SIZE) for n in range(38))]
    page = np.full((8 * 66 + 6, 6 * 86 + 6, 3), 255, np.uint8)
    for number, cell in enumerate(pictures):
        top, left = 6 + 66 * (number // 6), 6 + 86 * (number % 6)
        page[top : top + 60, left : left + 80] = cv2.resize(cell, (80, 60), interpolation=cv2.INTER_AREA)
    return page


COPIES = {
    "smaller": lambda image: cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, (800, 600), interpolation=cv2.INTER_CUBIC),
    "thumbnail": lambda image: cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA),
    "cropped": lambda image: image[30:210, 50:290],
    "mirrored": lambda image: image[:, ::-1],
    "mirrored crop": lambda image: image[20:220, 290:20:-1],
    "turned 12 degrees": lambda image: rotated(image, 12),
    "turned 90 degrees": lambda image: np.rot90(image),
    "upside down": lambda image: image[::-1, ::-1],
    "written on": written_on,
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
    "darker": lambda image: (255 * (image / 255) ** 2).astype(np.uint8),
    "padded": lambda image: cv2.copyMakeBorder(image, 40, 10, 60, 30, cv2.BORDER_CONSTANT, value=(250, 250, 250)),
    "stretched": lambda image: cv2.resize(image, (300, 280), interpolation=cv2.INTER_AREA),
    "negative": lambda image: 255 - image,
    "negative, turned and mirrored": lambda image: 255 - np.rot90(image)[:, ::-1],
    "squeezed to half, mirrored": lambda image: cv2.resize(image, (320, 115), interpolation=cv2.INTER_AREA)[:, ::-1],
    "among eight others": among_others,
    "one of 48 on a page": on_a_page,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    images = {f"protected/{i:02}": encoded(original(i)) for i in range(NUM_PROTECTED)}
    images |= {"protected/broken": b"\xff\xd8\xff not a photograph"}
    folder, figures, rejects = build(tmp_path_factory.mktemp("protected") / "one", images)
    assert figures["num_images"] == NUM_PROTECTED
    assert figures["num_vectors"] > 100 * NUM_PROTECTED
    assert [r.image_id for r in rejects] == ["protected/broken"]
    return folder


@pytest.fixture(scope="module")
def pool_rows(tmp_path_factory):
    images = {}
    for number, (kind, copy) in enumerate(COPIES.items()):
        pixels = copy(original(number % NUM_PROTECTED))
        images[f"pool/{kind}/{number % NUM_PROTECTED:02}"] = encoded(pixels, 60)
    images |= {f"pool/other/{i}": encoded(picture(100 + i, *SIZE)) for i in range(6)}
    images |= {f"pool/stamped/{i}": encoded(stamped(picture(200 + i, *SIZE))) for i in range(3)}
    images |= {f"pool/framed/{i}": encoded(framed(picture(300 + i, *SIZE))) for i in range(3)}
    images |= {
        "pool/blank": encoded(np.full((90, 90, 3), 200, np.uint8)),
        "pool/torn": encoded(picture(5))[:900],
        "pool/same bytes": encoded(original(7)),
        "pool/same broken bytes": b"\xff\xd8\xff not a photograph",
    }
    return catalog_rows(tmp_path_factory.mktemp("pool") / "files", images)


@pytest.fixture(scope="module")
def result(index, pool_rows):
    return opened(index)(pool_rows)


def test_all_copies_are_found_and_nothing_else(result):
    found = {(r["image_id"], r["protected_id"]) for r in result.rows.to_pylist() if r["is_duplicate"]}
    expected = {
        (f"pool/{kind}/{i % NUM_PROTECTED:02}", f"protected/{i % NUM_PROTECTED:02}") for i, kind in enumerate(COPIES)
    }
    expected |= {("pool/same bytes", "protected/07"), ("pool/same broken bytes", "protected/broken")}
    assert found == expected


def test_corner_on_corner_is_no_copy_but_half_on_half_is(tmp_path):
    """Floors of one laminate, and two pictures cut from one."""
    scene = picture(42, 640, 480)
    folder, _, _ = build(tmp_path / "index", {"protected/a": encoded(scene[:240, :320])})
    shifted = {"corner": scene[110:350, 150:470], "half": scene[:240, 150:470], "crop": scene[100:240, 170:320]}
    pool = catalog_rows(tmp_path / "pool", {f"pool/{name}": encoded(image) for name, image in shifted.items()})
    decided = opened(folder)(pool).rows.to_pylist()
    assert {row["image_id"] for row in decided if row["is_duplicate"]} == {"pool/half", "pool/crop"}


def test_rows_keep_the_contract(result):
    assert result.rows.schema == DUPLICATES.row_schema()
    rows = result.rows.to_pylist()
    assert len({(r["image_id"], r["protected_id"]) for r in rows}) == len(rows)
    assert all(0 <= r["score"] <= 1 and len(r["homography"]) == 9 for r in rows)
    assert [(r.image_id, r.reason) for r in result.rejects] == [("pool/torn", "truncated_image")]


def test_the_homography_shows_where_a_copy_lies(result):
    by_kind = {r["image_id"].split("/")[1]: r for r in result.rows.to_pylist() if r["is_duplicate"]}
    for kind, corner, expected in (
        ("cropped", (0, 0), (50, 30)),
        ("larger", (799, 0), (319, 0)),
        ("mirrored", (0, 0), (319, 0)),
        ("turned 90 degrees", (0, 0), (319, 0)),
        ("one of 48 on a page", (6 + 86 * 3, 6 + 66), (0, 0)),
    ):
        x, y, depth = np.reshape(by_kind[kind]["homography"], (3, 3)) @ (*corner, 1)
        np.testing.assert_allclose((x / depth, y / depth), expected, atol=4, err_msg=kind)
    assert {kind for kind, row in by_kind.items() if row["flipped"]} == {kind for kind in COPIES if "mirrored" in kind}
    assert by_kind["same bytes"]["method"] == "exact"


def test_order_split_and_threads_do_not_change_a_row(index, pool_rows, result):
    shuffled = pool_rows.take(np.random.default_rng(0).permutation(pool_rows.num_rows))
    halves = [opened(index, num_threads=3)(shuffled.slice(start, 12)).rows for start in range(0, len(shuffled), 12)]
    order = [("image_id", "ascending"), ("protected_id", "ascending")]
    assert pa.concat_tables(halves).sort_by(order) == result.rows.sort_by(order)


def test_the_index_depends_neither_on_order_nor_on_threads(tmp_path, index):
    images = {f"protected/{i:02}": encoded(original(i)) for i in reversed(range(NUM_PROTECTED))}
    images |= {"protected/broken": b"\xff\xd8\xff not a photograph"}
    again, _, _ = build(tmp_path / "again", images, num_threads=3)
    files = sorted(file.relative_to(index) for file in index.rglob("*") if file.is_file())
    assert len(files) > 10
    for file in files:
        assert (again / file).read_bytes() == (index / file).read_bytes(), file


def test_nothing_protected_finds_nothing(tmp_path, pool_rows):
    empty, figures, _ = build(tmp_path / "empty", {})
    assert figures["num_images"] == figures["num_vectors"] == 0
    assert figures["num_stopped"] == figures["num_sharing"] == figures["num_repeating"] == 0
    assert opened(empty)(pool_rows).rows.num_rows == 0
    assert opened(empty)(pool_rows.slice(0, 0)).rows.num_rows == 0
    flat = {"protected/flat": encoded(np.full((240, 320, 3), 90, np.uint8))}
    bare, figures, _ = build(tmp_path / "flat", flat)
    assert figures["num_images"] == figures["num_without_keypoints"] == 1 and figures["num_vectors"] == 0
    assert opened(bare)(pool_rows).rows.num_rows == 0


@pytest.mark.parametrize("others", [{}, {f"labeled/{i}": encoded(original(i)) for i in range(4)}])
def test_an_input_of_which_nothing_can_be_read_is_refused(tmp_path, others):
    """Be there other inputs or not: copies of its images would stay in the pool."""
    broken = {f"protected/{i}": b"\xff\xd8\xff not a photograph" for i in range(3)}
    with pytest.raises(UserError, match="3 of 3 images of the input 'protected' cannot be used"):
        build(tmp_path / "broken", broken | others)


def test_looks_find_what_keypoints_do_not(tmp_path):
    pair = [cv2.GaussianBlur(picture(seed, *SIZE), (0, 0), 8) for seed in (600, 601)]
    index, figures, _ = build(tmp_path / "pair", {"protected/a": encoded(pair[0]), "protected/b": encoded(pair[1])})
    assert figures["num_vectors"] < 100
    rows = catalog_rows(tmp_path / "pool", {"pool/turned": encoded(np.rot90(pair[1]), 60)})
    found = opened(index, min_votes=10_000)(rows).rows.to_pylist()
    confirmed = [(r["protected_id"], r["method"]) for r in found if r["is_duplicate"]]
    assert confirmed == [("protected/b", "perceptual")]


def odd_images():
    """Name -> (encoded image, reason it is rejected for or None); some are copies."""
    panorama, paper = picture(800, 8000, 400), np.full((200, 200, 3), 255, np.uint8)
    sketch = cv2.circle(paper.copy(), (100, 100), 60, (0, 0, 0), 9)
    grey = cv2.cvtColor(picture(801), cv2.COLOR_RGB2GRAY)
    return {
        "flat": (encoded(np.full((120, 90, 3), 77, np.uint8)), None),
        "one pixel high": (encoded(picture(802)[:1]), "too_small"),
        "sliver": (encoded(picture(803)[:8]), None),
        "tiny": (encoded(picture(804)[:9, :9]), None),
        "panorama": (encoded(cv2.resize(panorama, (4000, 200), interpolation=cv2.INTER_AREA)), None),
        "grey": (bad_inputs.encode(grey, "JPEG", quality=60), None),
        "cmyk": (bad_inputs.encode(Image.fromarray(picture(801)).convert("CMYK"), "JPEG", quality=80), None),
        "few key points": (encoded(cv2.resize(sketch, (140, 140), interpolation=cv2.INTER_AREA)), None),
        "another sketch": (
            encoded(cv2.rectangle(np.full((200, 200, 3), 255, np.uint8), (60, 20), (90, 180), 0, 9)),
            None,
        ),
    }


def test_odd_images_are_handled_and_their_copies_found(tmp_path):
    sketch = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(sketch, (100, 100), 60, (0, 0, 0), 9)
    originals = {"panorama": picture(800, 8000, 400), "photo": picture(801), "sketch": sketch}
    originals["flat"] = np.full((80, 80, 3), 200, np.uint8)
    index, figures, _ = build(tmp_path / "odd", {f"protected/{k}": encoded(v) for k, v in originals.items()})
    assert figures["num_without_keypoints"] == 1
    odd = odd_images()
    result = opened(index)(catalog_rows(tmp_path / "pool", {f"pool/{k}": data for k, (data, _) in odd.items()}))
    assert {r.image_id: r.reason for r in result.rejects} == {f"pool/{k}": why for k, (_, why) in odd.items() if why}
    found = {(r["image_id"], r["protected_id"]) for r in result.rows.to_pylist() if r["is_duplicate"]}
    assert found == {
        ("pool/panorama", "protected/panorama"),
        ("pool/grey", "protected/photo"),
        ("pool/cmyk", "protected/photo"),
        ("pool/few key points", "protected/sketch"),
    }


def in_the_sky(seed):
    """A small thing on flat ground."""
    sky = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
    sky[90:138, 130:190] = cv2.resize(picture(seed), (60, 48), interpolation=cv2.INTER_AREA)
    return sky


def test_copies_of_what_fills_few_cells_are_found_and_another_is_none(tmp_path):
    index, _, _ = build(tmp_path / "sky", {"protected/bird": encoded(in_the_sky(3))})
    center = cv2.getRotationMatrix2D((160, 120), 8, 1.0)
    pool = {
        "pool/encoded": encoded(in_the_sky(3), 40),
        "pool/halved": encoded(cv2.resize(in_the_sky(3), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
        "pool/turned": encoded(cv2.warpAffine(in_the_sky(3), center, SIZE, borderValue=(200, 200, 200))),
        "pool/mirrored": encoded(in_the_sky(3)[:, ::-1]),
        **{f"pool/other{seed}": encoded(in_the_sky(seed)) for seed in (4, 5, 6, 7)},
    }
    rows = opened(index)(catalog_rows(tmp_path / "pool", pool)).rows.to_pylist()
    copies = {row["image_id"]: row["num_blocks"] for row in rows if row["is_duplicate"]}
    assert set(copies) == {"pool/encoded", "pool/halved", "pool/turned", "pool/mirrored"}
    assert max(copies.values()) < config().dedupe.min_blocks


def test_a_recurring_watermark_leaves_the_vote(tmp_path):
    images = {f"protected/{i}": encoded(stamped(picture(400 + i, *SIZE))) for i in range(12)}
    index, figures, _ = build(tmp_path / "stamped", images)
    assert 0 < figures["num_stopped"] < 0.5 * figures["num_vectors"]
    rows = catalog_rows(
        tmp_path / "pool",
        {
            "pool/other": encoded(stamped(picture(500, *SIZE))),
            "pool/copy": encoded(stamped(picture(403, *SIZE))[:, ::-1]),
        },
    )
    found = [(r["image_id"], r["protected_id"]) for r in opened(index)(rows).rows.to_pylist() if r["is_duplicate"]]
    assert found == [("pool/copy", "protected/3")]


def test_copies_within_the_protected_set_do_not_stop_each_other(tmp_path):
    images = {f"protected/{i:02}": encoded(picture(7, *SIZE), 95 - i) for i in range(12)}
    index, figures, _ = build(tmp_path / "same", images)
    rows = catalog_rows(tmp_path / "pool", {"pool/crop": encoded(picture(7, *SIZE)[30:200, 40:280])})
    found = opened(index)(rows).rows.to_pylist()
    assert figures["num_stopped"] == 0
    assert len(found) == 5 and all(r["is_duplicate"] for r in found)


def test_copies_of_one_input_hide_no_copy_of_another(tmp_path):
    trained = {f"labeled/{k}": encoded(picture(7, *SIZE), 95 - k) for k in range(4)}
    index, _, _ = build(tmp_path / "both", {**trained, "protected/leak": trained["labeled/2"]})
    copies = {"pool/crop": encoded(picture(7, *SIZE)[30:200, 40:280]), "pool/same bytes": trained["labeled/2"]}
    rows = opened(index)(catalog_rows(tmp_path / "pool", copies)).rows.to_pylist()
    for image, number in (("pool/crop", 5), ("pool/same bytes", 2)):
        found = [r["protected_id"] for r in rows if r["image_id"] == image and r["is_duplicate"]]
        assert "protected/leak" in found and len(found) == number, image


def test_a_setting_reruns_what_it_can_change_and_no_more():
    def changed(**settings):
        stages = (index_protected.STAGE, find_copies.STAGE, dedupe.STAGE)
        return [s.name for s in stages if s.settings(config()) != s.settings(config(**settings))]

    assert changed(min_score=0.9, min_inliers=9, min_blocks=9, min_coverage=0.9, min_explained=0.9) == ["dedupe"]
    assert changed(num_candidates=9, num_probes=8, pool_keypoints=100) == ["find_copies"]
    assert changed(protected_keypoints=100) == ["index_protected", "find_copies"]
    assert changed(max_reject_share=0.5) == []
