"""The duplicate pairs of the report: lines and differences against known transforms; room, order and pages."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import picture
from reported import CLASSES, Page, catalogued, database, html_of, pair_row, similarity

from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.copies.geometry.homography import resized_pixels
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.report import difference, matches, pairs
from ssld_pipeline.report.overlay import SLOT_PX, Place
from ssld_pipeline.report.page import MAX_PAGE_BYTES
from ssld_pipeline.report.pictures import MAX_BYTES, Album, Picture, encode

Tables = dict[str, list[dict[str, Any]]]


def gallery_of(tables: Tables, limit: int = 9, max_bytes: int = 10**6) -> pairs.Gallery:
    album = Album(ImageReader().read, max_bytes)
    return pairs.gallery(database(**tables), album, DedupeConfig(), limit, CLASSES)


def pair_of(folder: Path, protected: np.ndarray, pool: np.ndarray, h: Any, **changes: Any) -> pairs.Pair:
    """One pair, drawn; both images are written to ``folder``."""
    rows = [catalogued(folder, "pool/a", "pool", pool), catalogued(folder, "val/a", "protected", protected, 1)]
    row = {**pair_row("pool/a", "val/a", 0.8, True, h), **changes}
    (pair,) = gallery_of({"catalog": rows, "duplicates": [row]}).pairs
    return pair


def in_pixels(points: np.ndarray, place: Place, size: tuple[int, int]) -> np.ndarray:
    """From the drawing to pixels of the picture that lies at ``place``."""
    return (points - (place.x, place.y)) * max(size) / SLOT_PX


@pytest.mark.parametrize(("degrees", "mirrored"), [(0, False), (25, False), (-12, True)])
def test_lines_join_what_the_known_transform_brings_together(tmp_path: Path, degrees: float, mirrored: bool) -> None:
    source, size = picture(3, 480, 360), (400, 400)
    to_pool = similarity(0.75, degrees, mirrored, (480, 360), size)
    pool = cv2.warpPerspective(source, to_pool, size, flags=cv2.INTER_AREA)
    pair = pair_of(tmp_path, source, pool, np.linalg.inv(to_pool))
    assert pair.overlay is not None
    drawn = "".join(pair.overlay.paths).split("M")[1:]
    ends = np.array([[float(v) for v in re.findall(r"[\d.]+", line)] for line in drawn])
    assert len(ends) == pair.overlay.num_drawn == min(32, pair.overlay.num_matched) > 20
    left = in_pixels(ends[:, :2], pair.overlay.pool, size)
    right = in_pixels(ends[:, 2:], pair.overlay.protected, (480, 360))
    expected = cv2.perspectiveTransform(left[None], np.linalg.inv(to_pool))[0]
    assert np.linalg.norm(expected - right, axis=1).max() < 0.02 * 480 / 0.75 + 1
    assert np.median(np.linalg.norm(expected - right, axis=1)) < 1.5
    assert np.ptp(right, axis=0).min() > 200, "lines come from all over the picture"


def test_matches_off_the_stored_transform_are_not_drawn() -> None:
    rng = np.random.default_rng(0)
    unit = np.array([[0.5, 0, 0.2], [0, 0.5, 0.1], [0, 0, 1]])
    p = rng.uniform(0, 1, (30, 2))
    q = p * 0.5 + (0.2, 0.1)
    q[::3] += 0.05
    lines = matches.explained(p.astype(np.float32), q.astype(np.float32), unit)
    assert len(lines) == 20 and lines.pool == pytest.approx(np.delete(p, np.s_[::3], axis=0), abs=1e-6)


def test_outline_is_what_each_picture_shows_of_the_other(tmp_path: Path) -> None:
    source = picture(4, 320, 240)
    crop = np.array([[1.0, 0, 80], [0, 1, 60], [0, 0, 1]])
    pair = pair_of(tmp_path, source, source[60:180, 80:240], crop)
    assert pair.overlay is not None and not pair.overlay.pool.polygon
    corners = np.array([[float(v) for v in p.split(",")] for p in pair.overlay.protected.polygon.split()])
    found = in_pixels(corners, pair.overlay.protected, (320, 240))
    assert (found.min(axis=0), found.max(axis=0)) == (pytest.approx([80, 60], abs=1), pytest.approx([240, 180], abs=1))


def test_warped_pool_image_lies_over_the_protected_one() -> None:
    source, size = cv2.GaussianBlur(cv2.cvtColor(picture(7, 320, 240), cv2.COLOR_RGB2GRAY), (0, 0), 2), (200, 200)
    to_pool = similarity(0.6, 20, True, (320, 240), size)
    pool = cv2.warpPerspective(source, to_pool, size, flags=cv2.INTER_AREA)
    small = cv2.resize(source, (160, 120), interpolation=cv2.INTER_AREA)
    h = resized_pixels((320, 240), (160, 120)) @ np.linalg.inv(to_pool)
    warped, inside = difference.warp(pool, h, (160, 120))
    assert 0.7 < inside.mean() < 1
    shown = cv2.perspectiveTransform(np.argwhere(inside)[None, :, ::-1].astype(float), np.linalg.inv(h))[0]
    assert shown.min() > -1 and shown.max() < 200
    # The outermost pixel mixes with what the pool image never showed.
    inner = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.abs(warped - small)[inner].mean() < 4 < 20 < np.abs(warped[:, ::-1] - small)[inner].mean()


@pytest.mark.parametrize(("gain", "offset"), [(0.7, 60), (-0.7, 240)])  # brighter and flatter; a negative of that
def test_difference_is_hot_where_something_was_written_and_nowhere_else(gain: float, offset: float) -> None:
    protected = cv2.cvtColor(picture(8, 160, 120), cv2.COLOR_RGB2GRAY)
    written = np.clip(protected * gain + offset, 0, 255).astype(np.uint8)
    written[20:40, 30:80] = np.where((protected[20:40, 30:80] < 128) == (gain > 0), 255, 0)
    found = difference.difference(written, protected, np.eye(3))
    assert found is not None
    saturation = np.ptp(found.pixels[:, :, :3].astype(int), axis=2)
    hot = np.zeros((120, 160), bool)
    hot[20:40, 30:80] = True
    assert np.median(saturation[hot]) > 100
    assert np.percentile(saturation[cv2.dilate(hot.astype(np.uint8), np.ones((9, 9))) == 0], 99) < 25
    assert (found.pixels[:, :, 3] == 255).all() and 2 < found.mean < 20


def test_difference_is_transparent_where_the_pool_image_shows_nothing() -> None:
    protected = cv2.cvtColor(picture(9, 160, 120), cv2.COLOR_RGB2GRAY)
    crop = np.array([[1.0, 0, 40], [0, 1, 30], [0, 0, 1]])
    found = difference.difference(protected[30:90, 40:140], protected, crop)
    assert found is not None and found.mean < 1
    expected = np.zeros((120, 160), bool)
    expected[30:90, 40:140] = True
    assert ((found.pixels[:, :, 3] == 255) == expected).all()
    away = np.array([[1.0, 0, 4000], [0, 1, 0], [0, 0, 1]])
    assert difference.difference(protected, protected, away) is None


@pytest.mark.parametrize(("method", "says"), [("exact", "equal bytes"), ("perceptual", "alike as a whole")])
def test_pair_without_key_points_has_no_lines_and_says_why(tmp_path: Path, method: str, says: str) -> None:
    source = picture(5)
    pair = pair_of(tmp_path, source, source, np.eye(3), method=method)
    assert pair.overlay is not None and not "".join(pair.overlay.paths) and says in pair.note
    assert pair.difference is not None and pair.mean_difference == pytest.approx(0, abs=0.1)
    assert pair.class_name == "dog"


@pytest.mark.parametrize("h", [None, [1.0] * 9, [float("nan")] + [0.0] * 8, [1.0, 0, 0, 0, 1, 0]])
def test_useless_homography_leaves_the_pictures_alone(tmp_path: Path, h: list[float] | None) -> None:
    pair = pair_of(tmp_path, picture(1), picture(2), None, homography=h)
    assert pair.pool.src and pair.protected.src and pair.difference is None
    assert pair.overlay is not None and not "".join(pair.overlay.paths) and pair.words == ("no transform stored",)


def test_unreadable_image_leaves_its_reason_in_its_place(tmp_path: Path) -> None:
    rows = [catalogued(tmp_path, f"pool/{i}", "pool", picture(i)) for i in range(2)]
    rows += [catalogued(tmp_path, f"val/{i}", "protected", picture(i)) for i in range(2)]
    Path(rows[0]["uri"]).unlink()
    Path(rows[3]["uri"]).write_bytes(b"\x89PNG\r\n\x1a\nhalf".ljust(rows[3]["size_bytes"], b"."))
    duplicates = [pair_row("pool/0", "val/0", 0.8, True, np.eye(3)), pair_row("pool/1", "val/1", 0.9, True, np.eye(3))]
    duplicates.append(pair_row("pool/never", "val/0", 0.2, False))
    text = Page(html_of({"catalog": rows, "duplicates": duplicates})).squeezed("duplicates")
    assert "unreadable: No such file or directory" in text
    assert "truncated_image: no IEND chunk" in text
    assert "not in the catalog" in text


def test_pairs_nearest_to_the_decision_come_first() -> None:
    scores = [(0.95, "copy"), (0.55, "copy"), (0.7, "allowed"), (0.1, "no_copy"), (0.45, "no_copy"), (0.05, "denied")]
    rows = [
        {**pair_row(f"pool/{i}", "val/0", s, v in ("copy", "denied")), "verdict": v} for i, (s, v) in enumerate(scores)
    ]
    rows.append({**pair_row("pool/x", "val/0", 0.0, True), "verdict": "denied", "protected_id": None})
    found = pairs.border_cases(database(duplicates=rows), limit=5)
    assert [round(r["score"], 2) for r in found] == [0.55, 0.45, 0.05, 0.7, 0.1]


def test_repeats_within_the_pool_are_shown_beside_what_is_kept(tmp_path: Path) -> None:
    catalog = [catalogued(tmp_path, f"pool/{i}", "pool", picture(i)) for i in range(3)]
    catalog.append(catalogued(tmp_path, "val/0", "protected", picture(0)))
    repeat = {**pair_row("pool/2", "pool/1", 0.93, True, np.eye(3)), "verdict": "repeat", "method": "perceptual"}
    again = {**pair_row("pool/0", "val/0", 0.95, True), "verdict": "copy_of_copy", "method": "perceptual"}
    for row in (repeat, again):
        row.update(explained=None, num_matches=0, num_inliers=0)
    found = pairs.border_cases(database(catalog=catalog, duplicates=[repeat, again]), limit=5)
    assert [(r["verdict"], r["other"]) for r in found] == [("copy_of_copy", "protected"), ("repeat", "kept")]
    text = Page(html_of({"catalog": catalog, "duplicates": [repeat, again]})).squeezed("duplicates")
    assert "the same picture, in the pool again kept" in text and "kept pool/1" in text
    assert "like a pool image that copies it protected" in text and "protected val/0" in text
    assert "no transform stored" not in text and "explained" not in text


@pytest.fixture
def many(tmp_path: Path) -> Tables:
    """450 pairs of 30 pool images of noise, which no encoder shrinks, and 15 protected ones; 4 in 9 confirmed."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (56, 72, 3), dtype=np.uint8) for _ in range(45)]
    pool = [catalogued(tmp_path, f"pool/{i:03d}", "pool", pixels) for i, pixels in enumerate(noise[:30])]
    protected = [catalogued(tmp_path, f"val/{i:03d}", "protected", pixels) for i, pixels in enumerate(noise[30:])]
    duplicates = [
        pair_row(f"pool/{i % 30:03d}", f"val/{i // 30:03d}", i / 450, i >= 250, np.eye(3)) for i in range(450)
    ]
    for number, row in enumerate(duplicates):
        row["method"] = ("sift", "perceptual")[number % 2]
    return {"catalog": pool + protected, "duplicates": duplicates}


def test_hundreds_of_pairs_stay_within_the_page(many: Tables) -> None:
    html = html_of(many)
    page = Page(html)
    assert len(page.all("article")) == 450 and len(page.all("template")) == 1
    assert len(html.encode()) < MAX_PAGE_BYTES and "did not fit" not in html
    bound = 2_500_000
    small = html_of(many, max_bytes=bound)
    shown = len(Page(small).all("article"))
    assert len(small.encode()) < bound and 50 < shown < 450
    text = Page(small).squeezed("duplicates")
    assert f"Shown: {shown}," in text and f"{450 - shown} more of the 450 nearest to the decision did not fit" in text
    without = html_of(many, max_bytes=0)
    assert "data:image" not in without and "The page has no room for their pictures" in without


def test_noise_is_embedded_within_the_bytes_of_one_picture() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (144, 144, 3), dtype=np.uint8)
    assert len(_bytes_of(encode(noise))) <= MAX_BYTES


def test_embedded_picture_has_its_colours_and_its_transparency() -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[:, :30] = (250, 120, 10, 255)
    decoded = cv2.imdecode(np.frombuffer(_bytes_of(encode(pixels)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(decoded[20, 10].astype(int) - (10, 120, 250, 255)).max() < 12 and decoded[20, 50, 3] == 0


def _bytes_of(found: Picture) -> bytes:
    assert found.src is not None
    return base64.b64decode(found.src.partition(",")[2])


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browsed(folder: Path, html: str, address: str = "", script: str = "") -> str:
    """The document after Chromium has run the page's script and then, for a test's sake, ``script``."""
    if script:
        html = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", html)
        html = html.replace("</body>", f"<script>{script}</script></body>")
    (folder / "page.html").write_text(html)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--virtual-time-budget=2000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"file://{folder / 'page.html'}{address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def shown_pairs(dom: str) -> list[str]:
    """pool and protected of the pairs in the document, without those that rest in the template."""
    live = re.sub(r"<template.*?</template>", "", dom, flags=re.DOTALL)
    ids = re.findall(r"<dd class=\"name\">((?:pool|val)/\d+)</dd>", live)
    return [f"{a} {b}" for a, b in zip(ids[::2], ids[1::2], strict=True)]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_browser_pages_and_filters_the_pairs(many: Tables, tmp_path: Path) -> None:
    html = html_of(many)
    order = [f"{r['image_id']} {r['protected_id']}" for r in pairs.border_cases(database(**many), 450)]
    assert shown_pairs(html) == order[:24], "without a script the first page stands"
    second = browsed(tmp_path, html, "#page=2")
    assert shown_pairs(second) == order[24:48] and second.count("<article") == 450
    script = """
        const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        const form = document.getElementById("pair-controls");
        form.scrollIntoView({ behavior: "instant" });
        press("ArrowRight"); press("ArrowRight"); press("ArrowLeft");
        document.title = document.querySelector(".at").value;
        form.elements.verdict.value = "no_copy"; form.elements.method.value = "sift";
        form.elements.order.value = "-score";
        form.dispatchEvent(new Event("change"));
        document.querySelector(".pager [data-step='1']").click();
    """
    dom = browsed(tmp_path, html, script=script)
    assert "<title>page 2 of 19, 450 pairs</title>" in dom
    wanted = [r for r in many["duplicates"] if not r["is_duplicate"] and r["method"] == "sift"]
    wanted.sort(key=lambda r: r["score"])
    assert shown_pairs(dom) == [f"{r['image_id']} {r['protected_id']}" for r in wanted[24:48]]
