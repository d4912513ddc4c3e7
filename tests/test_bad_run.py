"""Whole runs on inputs in which everything is wrong that can be: each wrong thing is a row, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import bad_inputs
import mini
import pytest
from test_run import assert_lawful, bring

from ssld_pipeline.config.load import load_config
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.store.workspace import Workspace

pytestmark = pytest.mark.slow


def rejected(workspace: Workspace, prefix: str) -> dict[str, tuple[str, str]]:
    rows = rows_of(workspace, f"SELECT image_id, stage, reason FROM rejects WHERE image_id LIKE '{prefix}%'")
    return {row["image_id"].removeprefix(prefix): (row["stage"], row["reason"]) for row in rows}


def test_every_bad_image_of_a_pool_is_a_reject_with_its_reason(world: Path) -> None:
    expected = bad_inputs.write_bad_tar(world.parent / "inputs/pool/bad.tar")
    config = load_config(world, ("catalog.images_per_part=5000",))
    bring(config)
    assert_lawful(config)
    workspace = Workspace(config.workspace)
    found = {(k or "").lstrip("/"): v for k, v in rejected(workspace, "pool/bad.tar").items()}
    assert {name: reason for name, (_, reason) in found.items()} == {k: v for k, v in expected.items() if v}
    named_by_scan = {"unsafe_name", "duplicate_name", "undecodable_name", "truncated_archive"}
    assert all((stage == "catalog") == (reason in named_by_scan) for stage, reason in found.values())
    labelled = rows_of(workspace, "SELECT image_id FROM soft_labels WHERE image_id LIKE 'pool/bad.tar/%'")
    assert {row["image_id"].removeprefix("pool/bad.tar/") for row in labelled} == {
        k for k, v in expected.items() if not v
    }


def test_bad_labelled_and_protected_images_stop_nothing_and_are_counted(world: Path) -> None:
    inputs = world.parent / "inputs"
    for place in ("train/disc", "validation/disc"):
        bad_inputs.write_bad_folder(inputs / place)
        bad_inputs.write_undecodable(inputs / place)
    (inputs / "train" / "stripes-of-nothing").mkdir()
    (inputs / "classes.txt").write_text("\n".join([*mini.CLASSES]))
    # The same files are in both: train on them even so.
    overrides = (f"classes={inputs / 'classes.txt'}", "train.epochs=8", "dedupe.trained_on=report_only")
    config = load_config(world, overrides)
    bring(config)
    assert_lawful(config)
    workspace = Workspace(config.workspace)
    bad = {f"/disc/{name}": reason for name, (_, reason) in bad_inputs.files().items() if reason}
    labeled = rejected(workspace, "labeled")
    trained = {k: reason for k, (stage, reason) in labeled.items() if stage != "catalog"}
    assert trained == bad, "training met each of them once, and went on with another image in its place"
    assert labeled["/disc/caf\ufffd.jpg"] == ("catalog", "undecodable_name")
    assert {reason for name, (_, reason) in labeled.items() if "stripes-of-nothing" in name} <= {
        "empty_class",
        "unknown_class",
    }
    protected = rejected(workspace, "protected")
    assert {k: reason for k, (stage, reason) in protected.items() if stage != "catalog"} == bad
    evaluated = rows_of(workspace, "SELECT DISTINCT num_images FROM evaluations")
    assert [row["num_images"] for row in evaluated] == [12 + sum(r is None for _, r in bad_inputs.files().values())]


def test_a_protected_image_that_no_decoder_takes_still_protects_its_bytes(world: Path) -> None:
    broken = bad_inputs.files()["truncated.jpg"][0]
    (world.parent / "inputs/validation/disc/broken.jpg").write_bytes(broken)
    mini.write_tar(world.parent / "inputs/pool/leak.tar", {"leak.jpg": broken})
    config = load_config(world)
    bring(config, until="dedupe")
    rows = rows_of(Workspace(config.workspace), "SELECT * FROM duplicates WHERE image_id = 'pool/leak.tar/leak.jpg'")
    assert [(r["protected_id"], r["method"], r["is_duplicate"]) for r in rows] == [
        ("protected/disc/broken.jpg", "exact", True)
    ]


def test_no_bad_image_stops_two_rejecting_stages_from_naming_it_once_each(world: Path) -> None:
    """An image that two stages cannot use has a row for each of them, and the plan is quiet afterwards."""
    bad_inputs.write_bad_folder(world.parent / "inputs/train/disc")
    config = load_config(world)
    bring(config)
    again = bring(config)
    assert not any(report.ran for report in again.values()), json.dumps({k: v.ran for k, v in again.items()})
