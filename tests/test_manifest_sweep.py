"""What `select-sweep` foretells is what `select` does; what `diff` says is what two manifests differ in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import mini
import pytest
from test_cli import verb
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.store.workspace import Workspace

TOP_P = ("--set", "select.assignment=top_p", "--set", "select.top_p=2")


@pytest.fixture
def config(finished_world: Path, tmp_path: Path) -> Path:
    """Of a world whose pool is labelled, and selected once."""
    return mini.copy_world(finished_world, tmp_path) / "config.yaml"


def mined(config: Path) -> list[dict[str, Any]]:
    return rows_of(Workspace(load_config(config).workspace), "SELECT * FROM manifest WHERE role = 'pool'")


@pytest.mark.parametrize("options", [(), TOP_P])
def test_the_sweep_foretells_the_selection(config: Path, options: tuple[str, ...]) -> None:
    rows = json.loads(verb("select-sweep", config, "--per-class", "1,3,4", "--json", *options))
    assert [row["per_class"] for row in rows] == [1, 3, 4]
    for row in rows:
        verb("select", config, "--set", f"select.per_class={row['per_class']}", *options)
        images = mined(config)
        counts = Counter(image["class_id"] for image in images)
        sizes = sorted(counts[c] for c in range(3))
        assert row["mined"] == len(images) and row["smallest"] == sizes[0] and row["median"] == sizes[1]
        assert row["full"] == sum(n == row["per_class"] for n in sizes) and row["empty"] == sizes.count(0)
        pairwise = sum(abs(a - b) for a in sizes for b in sizes) / (2 * 3 * sum(sizes))
        assert row["gini"] == pytest.approx(pairwise)
        cuts = [
            min(i["score"] for i in images if i["class_id"] == c) for c, n in counts.items() if n == row["per_class"]
        ]
        assert row["lowest_cut"] == (min(cuts) if cuts else None)


def test_the_sweep_starts_at_the_settings(config: Path) -> None:
    assert [r["per_class"] for r in json.loads(verb("select-sweep", config, "--json"))] == [1, 2, 3, 6, 12, 24]
    solved = json.loads(verb("select-sweep", config, "--json", "--set", "select.target_total=7"))
    assert max(r["mined"] for r in solved if r["mined"] <= 7) >= 5 and any(r["mined"] > 7 for r in solved)
    short = json.loads(
        verb("select-sweep", config, "--json", "--set", "select.min_per_class=5", "--set", "select.top_p=2")
    )
    assert all(r["lack"] == 15 - r["mined"] for r in short if r["per_class"] <= 5 and r["short"] == 3)
    assert "mined" in verb("select-sweep", config)


def test_select_alone_reports_and_refuses_what_is_stale(config: Path) -> None:
    printed = verb("select", config, "--set", "select.min_per_class=5", "--set", "select.top_p=2")
    assert "filled" in printed and "label " not in printed
    mini.write_tar(config.parent / "inputs/pool/pool-2.tar", mini.pool_tar(2))
    with pytest.raises(UserError, match="out of date"):
        verb("select", config)


def test_diff_between_two_versions(config: Path) -> None:
    before = mined(config)
    version = Workspace(load_config(config).workspace).tables["manifest"].version()
    gone = before[0]["image_id"]
    (config.parent / "gone.txt").write_text(gone)
    verb("select", config, "--set", "select.per_class=4", "--set", "select.exclude=gone.txt")
    after = mined(config)
    was, now = ({(i["image_id"], i["class_id"]) for i in rows} for rows in (before, after))
    found = json.loads(verb("diff", config, "manifest", "--from", str(version), "--json"))
    assert (found["from"], found["to"]) == (version, version + 1)
    for row in found["classes"]:
        number = row["class_id"]
        assert row["class"] == mini.CLASSES[number]
        assert row["entered"] == sum(c == number for _, c in now - was)
        assert row["left"] == sum(c == number for _, c in was - now)
        assert row["after"] - row["before"] == row["entered"] - row["left"]
        assert row["before"] == 8 + sum(c == number for _, c in was), "the labelled ones count"
    assert sum(r["left"] for r in found["classes"]) == len(was - now) > 0
    number = before[0]["class_id"]
    listed = json.loads(verb("diff", config, "manifest", "--from", str(version), "--class", str(number), "--json"))
    assert {i["image_id"] for i in listed["images"] if i["change"] == "left"} == {
        i for i, c in was - now if c == number
    }
    assert gone in verb("diff", config, "manifest", "--from", str(version), "--class", str(number))
    same = json.loads(verb("diff", config, "manifest", "--from", str(version), "--to", str(version), "--json"))
    assert same["classes"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("diff", "{config}", "catalog", "--from", "0"), "only the manifest"),
        (("diff", "{config}", "manifest", "--from", "77"), "no version 77; versions are 0 to 0"),
        (("select-sweep", "{config}", "--per-class", "3,none"), "whole numbers above 0"),
        (("select-sweep", "{config}", "--per-class", "0"), "whole numbers above 0"),
        (("select-sweep", "{config}", "--set", "workspace=empty"), "no soft labels yet"),
        (("diff", "{config}", "manifest", "--from", "0", "--set", "workspace=empty"), "no manifest yet"),
    ],
)
def test_mistakes(config: Path, words: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, [w.format(config=config) for w in words])
    assert isinstance(result.exception, UserError) and says in str(result.exception)
