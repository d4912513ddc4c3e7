"""The report page: its figures against the tables, and what a hostile, empty or damaged workspace does to it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import (
    CLASSES,
    Page,
    catalogued,
    database,
    html_of,
    manifest_row,
    pair_row,
    picture,
    similarity,
    soft_row,
    trained,
)
from scipy.stats import binomtest

from ssld_pipeline.copies.geometry.transform import transform
from ssld_pipeline.queries.metrics import records
from ssld_pipeline.report import curves, figures, svg
from ssld_pipeline.report.page import render
from ssld_pipeline.report.pictures import Address
from ssld_pipeline.report.waterfall import waterfall

SECTIONS = ["headline", "way", "evaluation", "training", "classes", "soft-labels", "mined", "recall"]
SECTIONS += ["duplicates", "rejects"]


@pytest.fixture
def workspace(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """12 pool images: 2 copies (one confirmed), 1 rejected, 10 labelled, 6 mined; 3 labeled, 2 protected."""
    pool = [catalogued(tmp_path, f"pool/{i}.png", "pool", picture(i)) for i in range(12)]
    labeled = [catalogued(tmp_path, f"labeled/{i}.png", "labeled", picture(50 + i), i % 2) for i in range(3)]
    protected = [catalogued(tmp_path, f"val/{i}.png", "protected", picture(i), 0) for i in range(2)]
    mined = [manifest_row(r, i % 2, score=0.9 - i / 10, rank=i // 2 + 1) for i, r in enumerate(pool[2:8])]
    return {
        "catalog": pool + labeled + protected,
        "duplicates": [
            pair_row("pool/0.png", "val/0.png", 0.8, True, np.eye(3)),
            pair_row("pool/1.png", "val/1.png", 0.3, False, np.eye(3)),
        ],
        "soft_labels": [soft_row(r["image_id"], 0.05 + i / 11) for i, r in enumerate(pool[1:11])]
        + [soft_row("pool/1.png", 0.99, view=1)],
        "manifest": mined + [manifest_row(r, r["class_id"]) for r in labeled],
        "rejects": [
            {"image_id": i, "stage": s, "reason": r, "detail": "no end-of-image marker", "part": "p"}
            for i, s, r in [
                ("pool/11.png", "find_copies", "truncated_image"),
                ("pool/11.png", "label", "truncated_image"),
                ("pool/gone.tar", "catalog", "unreadable"),
            ]
        ],
        "evaluations": [
            {
                "model": m,
                "input": "val",
                "num_images": 1000,
                "top1": t,
                "top5": 0.9,
                "num_parameters": 1234567,
                "part": "p",
            }
            for m, t in [("train", 0.61), ("baseline", 0.5), ("teacher", 0.8)]
        ],
    }


def canaries(*kinds: tuple[str, bool, int, int]) -> dict[str, Any]:
    rows = [
        {"kind": kind, "is_hard": hard, "planted": planted, "images": planted, "found": found, "right": found}
        | {"recall": found / planted}
        | dict(zip(("low", "high"), figures.wilson(found / planted, planted), strict=True))
        for kind, hard, planted, found in kinds
    ]
    counts = {f"num_{k}": sum(row[k] for row in rows) for k in ("planted", "found", "right")}
    return counts | {"recall": 0.9, "low": 0.8, "high": 0.95, "min_canary_recall": 0.95, "kinds": rows}


def test_recall_of_planted_copies_is_drawn_per_kind_with_the_missed_ones(tmp_path: Path) -> None:
    row = catalogued(tmp_path, "00007-hard_crop", "pool", picture(1))
    missed = [Address("00007-hard_crop", row["uri"], 0, row["size_bytes"]), Address("00003-<b>", __file__, 0, 99)]
    found = canaries(("jpeg", False, 7, 7), ("hard_crop", True, 6, 3))
    page = Page(render(database(), [], title="t", classes=CLASSES, canaries=found, missed=missed))
    text = page.squeezed("recall")
    assert "13 altered copies" in text and "10 were found" in text and "7 of 7" in text and "3 of 6" in text
    assert "hard_crop: 50.0%, 18.8% to 81.2%" in text, "the interval of 3 of 6, after Newcombe (1998)"
    dots = [(c["class"], float(c["cx"] or 0)) for c in page.all("circle")]
    assert dots == [("fill c0", 624.0), ("fill c1", 371.0)], "at 1 and half way between 118 and 624"
    assert "00003-<b>" in text and "not_an_image" in text and len(page.all("img")) == 1


def test_figures_of_the_page_are_those_of_the_tables(workspace: dict[str, Any]) -> None:
    stages = [{"stage": "label", "rows": 10, "parts": 2, "seconds": 75.0}]
    page = Page(html_of(workspace, stages=stages, trainings=[trained("baseline"), trained("train")]))
    headline = page.squeezed("headline")
    assert "Student train, top-1 on val" in headline
    assert "61.0 %" in headline and "+11.0 points over the baseline" in headline and "teacher 80.0 %" in headline
    for label, value in (
        ("Pool", 12),
        ("Copies removed", 1),
        ("Rejected", 3),
        ("Labelled", 10),
        ("Mined", 6),
        ("Manifest", 9),
    ):
        assert re.search(rf"{label} {value}\b", headline), label
    assert "label rows 10 parts 2 time 1 min" in page.squeezed("way")
    assert "1,234,567" in page.squeezed("evaluation")
    assert re.search(r"cat .*?2 3 0\.500", page.squeezed("classes"))
    assert re.search(r"dog .*?1 3 0\.400", page.squeezed("classes"))
    assert "find_copies truncated_image" in page.squeezed("rejects")
    assert list(page.text) == SECTIONS


def test_pool_is_fully_accounted_for(workspace: dict[str, Any]) -> None:
    steps = waterfall(figures.counts(database(**workspace)))
    assert [(s.name, s.num) for s in steps] == [
        ("pool", 12),
        ("copies and denied images", -1),
        ("rejected", -1),
        ("labelled by the teacher", 10),
        ("not selected", -4),
        ("mined", 6),
        ("labeled images", 3),
        ("manifest", 9),
    ]
    for before, after in itertools.pairwise(steps):
        edge = before.start if before.kind == "loss" else before.end
        assert after.end == pytest.approx(edge) or after.start == pytest.approx(edge)


def test_images_a_run_under_way_has_not_labelled_are_named(workspace: dict[str, Any]) -> None:
    workspace["soft_labels"] = workspace["soft_labels"][:4]
    assert "not labelled yet −6" in Page(html_of(workspace)).squeezed("way")


def test_empty_tables_say_so_in_every_section() -> None:
    page = Page(html_of({}, classes=[]))
    assert list(page.text) == SECTIONS
    for section in SECTIONS:
        assert re.search(r"\b(No|empty|has labelled no|no image)\b.*\.", page.squeezed(section)), section


def test_text_from_data_cannot_become_markup(workspace: dict[str, Any], tmp_path: Path) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'"
    row = catalogued(tmp_path, f"pool/{evil}", "pool", picture(0))
    workspace["catalog"].append(row)
    workspace["manifest"].append(manifest_row(row, 0, score=0.99, rank=0))
    workspace["duplicates"].append(pair_row(row["image_id"], f"val/{evil}", 0.9, True, np.eye(3)))
    workspace["rejects"].append({"image_id": evil, "stage": evil, "reason": evil, "detail": evil, "part": "p"})
    workspace["evaluations"].append({**workspace["evaluations"][0], "model": evil, "input": evil, "num_images": 10**6})
    metrics = json.dumps({"step": 1, "loss": 1.0})
    words = dict.fromkeys(("network", "start", "data", "teacher", "objective"), evil)
    page = Page(
        html_of(
            workspace,
            title=evil,
            classes=[evil, evil],
            licence=evil,
            facts={evil: evil},
            trainings=[trained(evil, metrics, **words, together=(evil,), made_at=0.0)],
            stages=[{"stage": evil, "rows": 1}],
        )
    )
    assert len(page.all("script")) == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert all((a["src"] or "").startswith("data:image/webp;base64,") for a in page.all("img"))
    assert evil in page.text["mined"]


def test_page_asks_for_nothing_outside_itself(workspace: dict[str, Any]) -> None:
    page = Page(html_of(workspace))
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), attributes
    (policy,) = [a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_page_can_be_read_without_seeing_it(workspace: dict[str, Any]) -> None:
    page = Page(html_of(workspace, trainings=[trained("train", '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}')]))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table")) > 3
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= ids


@pytest.mark.parametrize(
    ("scale", "degrees", "mirrored"), [(1, 0, False), (0.5, 30, False), (2, -90, True), (0.7, 12, True)]
)
def test_homography_is_taken_apart_into_what_was_done(scale: float, degrees: float, mirrored: bool) -> None:
    size = (160, 120)
    found = transform(np.linalg.inv(similarity(scale, degrees, mirrored, size, size)), size, size)
    assert found is not None
    assert (found.mirrored, found.scale, found.rotation_deg) == (mirrored, pytest.approx(scale), pytest.approx(degrees))
    assert found.stretch == pytest.approx(1)


def test_words_say_how_much_of_the_protected_image_is_left() -> None:
    crop = np.array([[1.0, 0, 40], [0, 1, 0], [0, 0, 1]])  # pool pixel x is protected pixel x + 40
    found = transform(crop, (120, 120), (160, 120))
    assert found is not None and found.words() == ["shows 75 % of the protected image"]
    assert transform(np.eye(3), (160, 120), (160, 120)).words() == ["same framing"]  # type: ignore[union-attr]


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_wilson_interval_is_scipys(num: int, share: float) -> None:
    hits = round(num * share)
    expected = binomtest(hits, num).proportion_ci(method="wilson")
    assert figures.wilson(hits / num, num) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_few_round_and_within(low: float, span: float) -> None:
    marks = svg.ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span)
    assert 1 <= len(marks) <= 7
    assert low - slack <= marks[0] and marks[-1] <= low + span + slack
    steps = np.diff(marks)
    assert np.allclose(steps, steps[:1] if len(steps) else 0, atol=slack)


def test_histogram_counts_what_numpy_counts() -> None:
    values = np.concatenate([np.linspace(0, 1, 100), [0.5, 0.5, np.nan]]).astype(np.float32)
    rows = [soft_row(f"pool/{i}", float(v)) for i, v in enumerate(values)] + [soft_row("pool/0", 0.5, view=1)]
    found = figures.distribution(database(soft_labels=rows), "top1_prob", 1.0)
    assert found is not None
    expected, _ = np.histogram(values[np.isfinite(values)], bins=figures.BINS, range=(0, 1))
    assert sum(found.counts) == 102 and np.abs(np.array(found.counts) - expected).max() <= 1  # float32 at bin edges
    assert found.quartiles == pytest.approx(np.nanquantile(values, [0.25, 0.5, 0.75]), abs=1e-6)


def test_thousand_classes_are_a_profile_and_the_extremes(workspace: dict[str, Any]) -> None:
    html = html_of(workspace, classes=[f"class {i:04d}" for i in range(1000)])
    page = Page(html)
    assert page.text["classes"].count("class 0") <= 20
    assert any("1000 classes" in (a["aria-label"] or "") for a in page.all("svg"))
    assert "998 classes have no mined image" in page.squeezed("classes")


def test_few_interesting_classes_are_named_as_such(workspace: dict[str, Any]) -> None:
    mined = [r for r in workspace["manifest"] if r["role"] == "pool"]
    workspace["manifest"] = [
        {**mined[i % 6], "image_id": f"pool/{i}", "class_id": i, "rank": 1, "score": 1 - i / 50} for i in range(40)
    ]
    text = Page(html_of(workspace, classes=[f"class {i}" for i in range(40)])).squeezed("mined")
    assert "12 of 40 classes with mined images" in text
    assert "class 39 1 mined" in text and "class 28 1 mined" in text and "class 27 1 mined" not in text


def test_metrics_of_a_killed_and_resumed_run_are_read() -> None:
    lines = [
        '{"step": 10, "loss": 3.0}',
        '{"step": 20, "loss": 2.0}',
        '{"step": 20, "validation_top1": 0.4}',
        "[1]",
        '{"step": 10, "loss": 2.5}',
        '{"step": 3',
    ]
    text = "\n".join(lines)
    assert records(text) == [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 2.0, "validation_top1": 0.4}]


def test_loss_that_is_not_finite_is_reported_and_left_out_of_the_curve() -> None:
    page = Page(html_of({}, trainings=[trained("train", '{"step": 1, "loss": 1.5}\n{"step": 2, "loss": NaN}')]))
    assert "train logged 1 values that are not finite" in page.squeezed("training")
    assert not [a for _, e in page.elements for a in e.values() if a and "nan" in a.split()]


def test_long_curve_is_thinned_to_its_means() -> None:
    text = "\n".join(json.dumps({"step": s, "loss": float(s)}) for s in range(1, 10_001))
    (series,) = curves.charts([trained("train", text)])[0].series
    assert len(series.points) <= curves.MAX_POINTS
    assert all(x == pytest.approx(y) for x, y in series.points)
