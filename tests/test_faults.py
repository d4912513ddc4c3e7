"""Every kind of file of a finished workspace, damaged: the run says which file it is, or computes it again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini
import pytest

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stages
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.planned import StagePlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.files import verify_files

pytestmark = pytest.mark.slow

INDEX = "artifacts/index_protected"
# What is changed in the config so that stages read the damaged file, and the last stage to run.
SEARCH = (("dedupe.num_neighbours=3",), "check_dedupe")
DECIDE = (("dedupe.min_score=0.46", "dedupe.min_repeat_score=0.91", "select.per_class=5"), "dedupe")
LABEL = (("teacher.crop_pct=0.8",), "label")
SELECT = (("select.per_class=5",), "select")
TRAIN = (("train.lr=0.04",), "train")
FINETUNE = (("finetune.lr=0.02",), "finetune")
NOTHING = ((), "evaluate")
LABELLED = ((), "label")
FCD, FD, F = "flip cut delete", "flip delete", "flip"
KINDS = {
    "catalog/*.parquet": (DECIDE, FD),
    "pairs/*.parquet": (DECIDE, FCD),
    "looks/*.parquet": (DECIDE, FD),
    "repeats/*.parquet": (DECIDE, FD),
    "duplicates/*.parquet": (LABEL, FCD),
    "soft_labels/*.parquet": (SELECT, FCD),
    "manifest/*.parquet": (TRAIN, FD),
    "rejects/*.parquet": (LABEL, FD),
    "evaluations/*.parquet": (NOTHING, FD),
    "catalog/_delta_log/*.json": (DECIDE, f"{FCD} empty"),
    "pairs/_delta_log/*.json": (DECIDE, "cut delete"),
    "duplicates/_delta_log/*.json": (LABEL, "cut delete"),
    "soft_labels/_delta_log/*.json": (SELECT, f"{FCD} empty"),
    "soft_labels/_delta_log/*.parquet": (SELECT, FCD),
    "rejects/_delta_log/*.json": (LABEL, f"{FCD} empty"),
    "manifest/_delta_log/*.json": (TRAIN, "cut delete"),
    f"{INDEX}/*/inputs.json": (SEARCH, F),
    **{f"{INDEX}/*/0/{name}.npy": (SEARCH, F) for name in ("descriptors", "frames", "places", "shared", "stopped")},
    f"{INDEX}/*/0/*.arrow": (SEARCH, F),
    f"{INDEX}/*/0/*.faiss": (SEARCH, "flip cut"),
    f"{INDEX}/record.json": (SEARCH, "cut"),
    "artifacts/check_dedupe/*/canaries.parquet": (NOTHING, FD),
    "artifacts/check_dedupe/*/metrics.json": (NOTHING, F),
    "artifacts/check_dedupe/record.json": (NOTHING, F),
    "artifacts/check_teacher/*/metrics.json": (NOTHING, "flip cut"),
    "artifacts/check_teacher/record.json": (NOTHING, FD),
    "models/train/*/student.safetensors": (FINETUNE, FCD),
    "models/train/*/config.json": (FINETUNE, F),
    "models/train/*/metrics.jsonl": (FINETUNE, F),
    "models/train/*/final.json": (FINETUNE, F),
    "models/train/record.json": (FINETUNE, FCD),
    "models/train/student.safetensors": (NOTHING, FD),
    "models/train/config.json": (NOTHING, F),
    "models/train/metrics.jsonl": (NOTHING, F),
    ".digests.json": (LABELLED, "flip cut"),
    ".roots.json": (SELECT, FD),
    ".last_commits/rejects.json": (LABELLED, FCD),
    "classes/*.txt": (LABELLED, FD),
    "classes/accepted.json": (LABELLED, "cut"),
}
# Of tables, models and an index that behave as those above; notes that only save time; a hint that Delta Lake can miss.
ALIKE = (
    "*/_delta_log/*.json",
    "models/*/*",
    "models/*/*/*",
    f"{INDEX}/*/0/*.npy",
    ".last_commits/*.json",
    "*/*/*/.checked.*",
    "*/_delta_log/_last_checkpoint",
)
TIMED = ("metrics.jsonl", "metrics.json")  # they hold seconds


class Silent:
    def started(self, plan: StagePlan, total: int) -> None: ...
    def advanced(self, amount: int) -> None: ...
    def reached(self, amount: int, note: str = "") -> None: ...
    def finished(self, report: StageReport) -> None: ...


def bring(config: RunConfig, **options: Any) -> None:
    run_pipeline(survey(config), LocalEngine, Silent(), **options)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "empty": empty, "delete": Path.unlink}


def results(config: RunConfig) -> dict[str, Any]:
    """What a run has made, as digests."""
    workspace = Workspace(config.workspace)
    tables = {
        name: {p.unit: (str(p.fingerprint), p.content) for p in t.parts().values()}
        for name, t in workspace.tables.items()
    }
    made = (stage.name for stage in stages(config) if stage.table is None)
    records = {name: record.files for name in made if (record := workspace.artifact(name).record())}
    return {**tables, **{name: {n: d for n, d in own.items() if n not in TIMED} for name, own in records.items()}}


def broken(config: RunConfig) -> list[str]:
    verdicts = verify_files(Workspace(config.workspace), config)
    return [example for verdict in verdicts for example in verdict.examples]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished world that has files of every kind."""
    from deltalake import DeltaTable

    folder = tmp_path_factory.mktemp("done") / "runs"
    mini.write_inputs(folder / "inputs")
    mini.write_tar(folder / "inputs/pool/pool-0.tar", {**mini.pool_tar(0), "broken.jpg": b"no image"})
    mini.write_teacher(folder / "teacher.safetensors")
    config = load_config(mini.write_config(folder, dedupe={"canaries": 31, "within_pool": True}, baseline=None))
    bring(config)
    labels = Workspace(config.workspace).tables["soft_labels"]
    DeltaTable(labels.uri).create_checkpoint()
    (folder / "workspace/.last_commits/soft_labels.json").unlink()
    labels.note_last_commit()
    return folder


Change = tuple[tuple[str, ...], str]


@pytest.fixture(scope="module")
def expected(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], dict[str, Any]]:
    """What a run on the undamaged workspace makes after a change of the config."""
    known: dict[Change, dict[str, Any]] = {}

    def after(change: Change) -> dict[str, Any]:
        if not change[0]:
            return results(load_config(done / "config.yaml"))
        if change not in known:
            folder = mini.copy_world(done, tmp_path_factory.mktemp("expected"))
            config = load_config(folder / "config.yaml", change[0])
            bring(config, until=change[1])
            known[change] = results(config)
        return known[change]

    return after


def only_file(workspace: Path, kind: str) -> Path:
    """The first file of a kind; of a log the newest, after which nothing comes."""
    found = sorted(workspace.glob(kind))
    assert found, kind
    return found[-1] if "_delta_log" in kind else found[0]


def damaged_world(done: Path, parent: Path, kind: str, damage: str) -> tuple[Path, Path]:
    """A copy of the world, and the file in it that is damaged."""
    folder = mini.copy_world(done, parent)
    path = only_file(folder / "workspace", kind)
    DAMAGES[damage](path)
    return folder, path


def test_every_kind_of_file_is_damaged_below(done: Path) -> None:
    workspace = done / "workspace"
    found = {p for p in workspace.rglob("*") if p.is_file()}
    known = {p for kind in (*KINDS, *ALIKE) for p in workspace.glob(kind)}
    assert not {str(p.relative_to(workspace)) for p in found - known}
    assert not broken(load_config(done / "config.yaml"))


@pytest.mark.parametrize(
    ("kind", "damage"), [(kind, damage) for kind, (_, damages) in KINDS.items() for damage in damages.split()]
)
def test_a_damaged_file_is_named_or_made_again_and_never_used(
    done: Path, tmp_path: Path, expected: Callable[[Change], dict[str, Any]], kind: str, damage: str
) -> None:
    change = KINDS[kind][0]
    folder, path = damaged_world(done, tmp_path, kind, damage)
    config = load_config(folder / "config.yaml", change[0])
    is_noticed = any(path.name in said for said in broken(config))
    assert is_noticed or damage == "delete", "verify --deep does not tell"
    try:
        bring(config, until=change[1])
    except UserError as error:
        assert path.name in str(error) and "emove" in str(error), str(error)
        return
    assert results(config) == expected(change)
    left = broken(config)
    assert not left or is_noticed, left


@pytest.mark.parametrize(("kind", "change"), [("soft_labels/*.parquet", SELECT), ("duplicates/*.parquet", LABEL)])
def test_what_the_message_says_heals_the_workspace(
    done: Path, tmp_path: Path, expected: Callable[[Change], dict[str, Any]], kind: str, change: Change
) -> None:
    folder, path = damaged_world(done, tmp_path, kind, "flip")
    config = load_config(folder / "config.yaml", change[0])
    with pytest.raises(UserError, match="Remove this file and run again"):
        bring(config, until=change[1])
    path.unlink()
    bring(config, until=change[1])
    assert results(config) == expected(change)
    assert not broken(config)


def test_a_missing_protected_part_removes_no_fewer_copies(done: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(done, tmp_path)
    config = load_config(folder / "config.yaml")
    before = results(config)
    workspace = Workspace(config.workspace)
    for part in workspace.tables["catalog"].parts().values():
        if part.name.startswith("protected/"):
            (folder / "workspace/catalog" / part.file).unlink()
    shutil.rmtree(folder / "workspace/pairs")
    shutil.rmtree(folder / "workspace/duplicates")
    bring(config, until="label")
    assert results(config) == before


def test_rejects_that_are_gone_are_not_taken_for_none(done: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(done, tmp_path)
    shutil.rmtree(folder / "workspace/rejects")
    with pytest.raises(UserError, match=r"rejects/_delta_log.*remove .*pairs"):
        bring(load_config(folder / "config.yaml", LABEL[0]), until="label")


def test_training_resumes_before_a_damaged_checkpoint_with_the_same_weights(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ssld_pipeline.training.fit import _Pass

    folder = mini.copy_world(done, tmp_path)
    config = load_config(folder / "config.yaml", ("placement.checkpoint_every_s=0.0001",))
    weights = results(config)["train"]["student.safetensors"]
    shutil.rmtree(folder / "workspace/models/train")
    save = _Pass._save

    def stop(trial: _Pass, done: int) -> None:
        save(trial, done)
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_Pass, "_save", stop)
        bring(config, until="train")
    newest = max((folder / "workspace/models/train").glob("*/checkpoint-*"))
    flip(newest)
    assert any(newest.name in said for said in broken(config))
    bring(config, until="train")
    assert newest.name in caplog.text
    assert results(config)["train"]["student.safetensors"] == weights
    lines = next((folder / "workspace/models/train").glob("*/metrics.jsonl")).read_text()
    assert '"resumed_at": 3' in lines
