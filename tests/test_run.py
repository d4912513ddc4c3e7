"""A whole run on drawn images, and what reruns after each kind of change."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pyarrow as pa
import pytest
from mini import bring

from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.runner.engine import Engine
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.planned import StagePlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.stages.networks import check_networks
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.store.artifacts import ArtifactStore, Record
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.laws import verify_laws

PART_STAGES = ("catalog", "find_copies", "label")


def ran(reports: dict[str, StageReport]) -> dict[str, int]:
    return {name: r.ran for name, r in reports.items() if r.ran or r.moved or r.removed}


def planned(config: RunConfig) -> dict[str, StagePlan]:
    return {p.stage: p for p in plan_run(survey(config))}


def no_engine() -> Engine:
    raise AssertionError("nothing was to be done, and yet an engine was asked for")


def assert_lawful(config: RunConfig) -> None:
    broken = [(v.law.name, v.examples) for v in verify_laws(Workspace(config.workspace), config) if v.num_broken]
    assert not broken


pytestmark = pytest.mark.slow


@pytest.fixture
def folder(finished_world: Path, tmp_path: Path) -> Path:
    return mini.copy_world(finished_world, tmp_path)


def test_everything_runs_and_obeys_the_laws(finished_world: Path) -> None:
    config = load_config(finished_world / "config.yaml")
    assert_lawful(config)
    workspace = Workspace(config.workspace)
    counts = {name: sum(p.num_rows for p in t.parts().values()) for name, t in workspace.tables.items()}
    assert counts["catalog"] == 24 + 12 + 26
    assert run_sql(workspace, "SELECT image_id FROM duplicates WHERE is_duplicate ORDER BY 1")[
        "image_id"
    ].to_pylist() == [
        "pool/pool-0.tar/copy.jpg",
        "pool/pool-1.tar/copy.jpg",
    ]
    assert counts["soft_labels"] == 24 and counts["rejects"] == 0
    assert {"train", "finetune", "baseline", "teacher"} == set(
        run_sql(workspace, "SELECT model FROM evaluations")["model"].to_pylist()
    )
    for model in ("train", "finetune", "baseline"):
        names = {p.name for p in (Path(config.workspace) / "models" / model).iterdir() if p.is_file()}
        assert {"student.safetensors", "config.json", "metrics.jsonl", "record.json"} <= names


def test_the_second_run_does_nothing_and_starts_nothing(finished_world: Path) -> None:
    config = load_config(finished_world / "config.yaml")
    assert not any(p.changes for p in plan_run(survey(config)))
    reports = run_pipeline(survey(config), no_engine, mini.Silent())
    assert not any(r.ran or r.removed or r.moved for r in reports)


def test_a_moved_folder_and_placement_rerun_nothing(folder: Path) -> None:
    config = load_config(folder / "config.yaml", ("placement.loader_threads=1", "placement.num_workers=1"))
    reports = run_pipeline(survey(config), no_engine, mini.Silent())
    assert not any(r.ran for r in reports)
    assert [r.stage for r in reports if r.moved] == ["catalog", "select"]
    assert_lawful(config)
    uris = run_sql(Workspace(config.workspace), "SELECT uri FROM catalog UNION SELECT uri FROM manifest")[
        "uri"
    ].to_pylist()
    assert all(Path(uri).exists() and str(folder) in uri for uri in uris)
    assert not any(r.moved for r in run_pipeline(survey(config), no_engine, mini.Silent()))


def test_a_new_tar_costs_its_own_parts_and_what_stands_on_the_whole(folder: Path) -> None:
    mini.write_tar(folder / "inputs/pool/pool-2.tar", mini.pool_tar(2))
    config = load_config(folder / "config.yaml")
    foreseen = planned(config)
    assert [u.name for u in foreseen["catalog"].of("run")] == ["pool/pool-2.tar"]
    assert [u.name for u in foreseen["label"].of("run")] == ["pool/pool-2.tar"]
    assert not foreseen["index_protected"].changes and foreseen["train"].changes
    reports = ran(bring(config))
    assert {k: reports[k] for k in PART_STAGES} == {"catalog": 1, "find_copies": 3, "label": 3}
    assert "index_protected" not in reports and "check_teacher" not in reports
    assert {"select", "train", "finetune"} <= reports.keys()
    assert_lawful(config)


def test_a_tar_taken_away_takes_its_rows_with_it(folder: Path) -> None:
    (folder / "inputs/pool/pool-1.tar").unlink()
    config = load_config(folder / "config.yaml")
    assert [u.name for u in planned(config)["catalog"].of("remove")] == ["pool/pool-1.tar"]
    reports = bring(config)
    assert reports["catalog"].removed == 1 and reports["label"].removed == 3 and reports["label"].ran == 0
    tables = Workspace(config.workspace)
    for name in ("catalog", "pairs", "duplicates", "soft_labels", "manifest"):
        assert run_sql(tables, f"SELECT image_id FROM {name} WHERE image_id LIKE '%pool-1%'").num_rows == 0
    assert_lawful(config)


def test_per_class_reruns_nothing_upstream_and_the_plan_says_why(folder: Path) -> None:
    config = load_config(folder / "config.yaml", ("select.per_class=3",))
    assert planned(config)["select"].reasons() == [("config.per_class: 6 -> 3", 1)]
    reports = ran(bring(config, until="select"))
    assert reports.keys() - {"catalog"} == {"select"} and not reports["catalog"]
    assert_lawful(config)


def test_a_threshold_reads_no_image_again(folder: Path) -> None:
    config = load_config(folder / "config.yaml", ("dedupe.min_score=0.57",))
    default = DedupeConfig().min_score
    assert planned(config)["dedupe"].reasons() == [(f"config.min_score: {default} -> 0.57", 1)]
    reports = ran(bring(config, until="select"))
    assert "find_copies" not in reports and reports["dedupe"] == 1
    assert_lawful(config)


def test_other_teacher_weights_rerun_labels_and_not_dedupe(folder: Path) -> None:
    mini.write_teacher(folder / "teacher.safetensors", seed=1)
    config = load_config(folder / "config.yaml")
    reason = planned(config)["label"].reasons()[0][0]
    assert reason.startswith("weights.teacher: ") and "->" in reason
    reports = ran(bring(config, until="label"))
    assert reports.keys() - {"catalog"} == {"check_teacher", "label"}


def test_a_dedupe_change_that_removes_the_same_images_keeps_the_labels(folder: Path) -> None:
    config = load_config(folder / "config.yaml")
    bring(config)
    os.utime(folder / "inputs/validation/disc/0.jpg", ns=(1, 1))  # another version of a protected image, same pixels
    reports = ran(bring(config, until="label"))
    assert reports["index_protected"] == 1 and "label" not in reports


def test_a_changed_image_of_the_same_size_is_noticed(folder: Path) -> None:
    path = folder / "inputs/train/disc/0.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes(18) + data[-2:])
    reports = ran(bring(load_config(folder / "config.yaml")))
    assert {"catalog", "select", "baseline", "train", "finetune"} <= reports.keys() and "label" not in reports


def test_a_killed_commit_between_rejects_and_rows_is_healed(folder: Path) -> None:
    config = load_config(folder / "config.yaml")
    bring(config)
    table = Workspace(config.workspace).tables["soft_labels"]
    part = next(iter(table.parts().values()))
    table.commit([], [part])
    reports = ran(bring(config))
    assert reports == {"label": 1}, "the same labels give the same manifest, so nothing downstream reruns"
    assert_lawful(config)


def test_a_part_that_loses_too_much_is_refused_and_the_rest_kept(folder: Path) -> None:
    mini.write_tar(folder / "inputs/pool/pool-2.tar", {f"{k}.jpg": b"no image" for k in range(40)})
    config = load_config(folder / "config.yaml", ("catalog.images_per_part=5000",))
    with pytest.raises(UserError, match=r"dedupe\.max_reject_share.*pool/pool-2\.tar#0 \(40 of 40\).*not_an_image"):
        bring(config)
    kept = {p.name for p in Workspace(config.workspace).tables["pairs"].parts().values()}
    assert {name for name in kept if name.startswith("pool/")} == {"pool/pool-0.tar#0", "pool/pool-1.tar#0"}


def test_results_do_not_depend_on_how_the_pool_is_cut(folder: Path) -> None:
    before = load_config(folder / "config.yaml")
    query = "SELECT * EXCLUDE (part) FROM soft_labels ORDER BY image_id"
    labels = run_sql(Workspace(before.workspace), query)
    bring(load_config(folder / "config.yaml", ("catalog.images_per_part=100",)), until="label")
    again = run_sql(Workspace(before.workspace), query)
    assert again["image_id"] == labels["image_id"] and again["class_ids"] == labels["class_ids"]
    for one, other in zip(labels["probs"].to_pylist(), again["probs"].to_pylist(), strict=True):
        assert one == pytest.approx(other, rel=2**-9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.weights=nowhere.safetensors", "teacher.weights.*nowhere.safetensors does not exist"),
        ("inputs.pool={uri: nowhere, format: tar}", "inputs.pool.*nowhere"),
        ("classes=nowhere.txt", "classes.*nowhere.txt"),
        ("dedupe.against=[validation]", "dedupe.against.*'validation'.*known"),
        ("teacher.min_top1=0.99", "0.99"),
    ],
)
def test_a_mistake_is_one_clear_message_before_the_work(world: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bring(load_config(world, (override,)), until="label")


def test_a_teacher_of_other_classes_is_refused_before_anything_is_done(world: Path) -> None:
    (world.parent / "inputs/train/fourth").mkdir()
    (world.parent / "inputs/train/fourth/a.jpg").write_bytes(mini.jpeg(mini.draw(0, 9)))
    config = load_config(world)
    with pytest.raises(UserError, match=r"teacher: (?s:.*)the weights have 3 classes, the run has 4: add teacher.fit"):
        run_pipeline(survey(config), no_engine, mini.Silent())
    assert Workspace(config.workspace).tables["catalog"].version() is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.model=timm:test_eficientnet", "student: timm has no model called.*nearest names: test_efficientnet"),
        ("student.model_args={depth: 3}", "student: model 'timm:test_efficientnet' cannot be built.*depth"),
        ("teacher.weights=null", "teacher.weights is null"),
        (
            "student={model: timm:vit_tiny_patch16_224, model_args: {depth: 1}}",
            r"baseline.image_size: 32, but model 'timm:vit_tiny_patch16_224' takes no such image: .*doesn't match",
        ),
        ("student.model=timm:qwen3_vit_88m_enc", "student: model 'timm:qwen3_vit_88m_enc' gives no logits"),
        (
            "student.model=torchvision:googlenet",
            "student: in training model 'torchvision:googlenet' gives GoogLeNetOutputs instead of logits",
        ),
        (
            "teacher={model: torchvision:googlenet, weights: null, image_size: 32, fit: {batch_size: 8}}",
            r"teacher: in training .*teacher.model_args: \{aux_logits: false\}",
        ),
    ],
)
def test_a_network_that_cannot_be_is_found_before_anything_is_done(world: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_pipeline(survey(load_config(world, (override,))), no_engine, mini.Silent())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.batch_size=25", "finetune: a batch of 25 cannot be made of 24 images of role labeled"),
        ("baseline.batch_size=25", "baseline: a batch of 25 cannot be made of 24 labelled images"),
        ("teacher.fit={batch_size: 25}", "fit_teacher: a batch of 25 .* Lower teacher.fit.batch_size"),
        ("train.batch_size=51", "train: a batch of 51 cannot be made of 50 images of role labeled or pool"),
    ],
)
def test_too_few_images_for_a_batch_are_told_when_they_are_counted(world: Path, override: str, message: str) -> None:
    sizes = ("train.batch_size=8", "finetune.batch_size=8", "baseline.batch_size=8")
    with pytest.raises(UserError, match=message):
        bring(load_config(world, (*sizes, override)))
    assert Workspace(str(world.parent / "workspace")).artifact("index_protected").record() is None


@pytest.mark.parametrize(
    "override",
    ["student={model: torchvision:googlenet, model_args: {aux_logits: false}}", "train.trainable=classifier"],
)
def test_a_network_that_gives_logits_where_it_learns_passes(world: Path, override: str) -> None:
    student = () if override.startswith("student") else ("student.model=torchvision:googlenet",)
    config = load_config(world, (*student, override))
    check_networks(Setup(config, mini.CLASSES, {}))


def test_a_cluster_too_small_to_train_is_found_before_anything_is_done(world: Path) -> None:
    class Small(LocalEngine):
        def require_resources(self, *args: Any) -> None:
            raise UserError("too few GPUs")

    config = load_config(world)
    with pytest.raises(UserError, match="too few GPUs"):
        run_pipeline(survey(config), Small, mini.Silent())
    assert Workspace(config.workspace).tables["catalog"].version() is None
    run_pipeline(survey(config), Small, mini.Silent(), until="catalog")


def test_what_is_finished_does_not_wait_for_the_next_to_finish(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers with equal parts finish together: a kill before the next wave ends must not cost all but one of them."""
    config = load_config(world)
    table = Workspace(config.workspace).tables["catalog"]

    class Waits(LocalEngine):
        def work(self, *args: Any) -> Iterator[Any]:
            finished = 0
            for receipt in super().work(*args):
                yield receipt
                time.sleep(0.04)
                yield None
                finished += len(receipt.parts)
                assert len(table.parts()) == finished

    monkeypatch.setattr("ssld_pipeline.runner.shapes.parts._COMMIT_EVERY_S", 0.02)
    run_pipeline(survey(config), Waits, mini.Silent(), until="catalog")


@pytest.mark.slow
def test_a_training_run_fetches_what_it_starts_from_where_it_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that trains may be another than the driver's: of the driver's files it has none."""
    teacher = "{epochs: 1, batch_size: 8, warmup_epochs: 0, image_size: 32}"
    config = load_config(world, (f"placement.cache={tmp_path / 'cache'}", f"teacher.fit={teacher}", "baseline=null"))

    def fetch(store: ArtifactStore, record: Record, cache: Path) -> Path:
        """As from a remote workspace."""
        return shutil.copytree(store.folder(record.fingerprint), cache / record.content, dirs_exist_ok=True)

    class OnAnotherMachine(LocalEngine):
        def fit(self, *args: Any) -> dict[str, Any]:
            *shipped, at_row = args
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            return super().fit(*pickle.loads(pickle.dumps(shipped)), at_row)

    monkeypatch.setattr(ArtifactStore, "fetch", fetch)
    reports = run_pipeline(survey(config), OnAnotherMachine, mini.Silent(), until="finetune")
    assert [r.stage for r in reports if r.ran][-3:] == ["select", "train", "finetune"]


def test_one_stage_alone_does_not_stand_on_what_is_stale(world: Path) -> None:
    config = load_config(world)
    bring(config, until="catalog")
    for stage in ("find_copies", "dedupe", "label", "select", "finetune"):
        stale = rf"{stage} depends on index_protected, which is out of date .*--until {stage}"
        with pytest.raises(UserError, match=stale):
            bring(config, only=(stage,))


def test_one_stage_alone_finds_the_images_where_they_lie_now(folder: Path) -> None:
    config = load_config(folder / "config.yaml", ("train.lr=0.04", "finetune.lr=0.01"))
    reports = bring(config, only=("train",))
    assert reports["train"].ran == 1 and reports["train"].num_rejects == 0
    uris = run_sql(Workspace(config.workspace), "SELECT uri FROM catalog UNION SELECT uri FROM manifest")[
        "uri"
    ].to_pylist()
    assert all(str(folder) in uri for uri in uris)
    assert not planned(config)["train"].changes


@pytest.mark.parametrize("stage", ["select", "train", "finetune"])
def test_an_image_that_dedupe_has_come_to_remove_is_not_selected_or_trained_on(folder: Path, stage: str) -> None:
    workspace = Workspace(load_config(folder / "config.yaml").workspace)
    best = run_sql(workspace, "SELECT image_id FROM manifest WHERE rank = 1 ORDER BY 1")["image_id"].to_pylist()
    (folder / "denied.txt").write_text(best[0])
    config = load_config(folder / "config.yaml", (f"dedupe.deny=[{folder / 'denied.txt'}]",))
    with pytest.raises(UserError, match=f"{stage} depends on dedupe, which is out of date"):
        bring(config, only=(stage,))


def test_a_student_that_saw_no_mined_image_is_not_committed(folder: Path) -> None:
    """As when the mount goes away between the driver's listing and the worker's reading."""
    config = load_config(folder / "config.yaml", ("train.seed=1",))
    bring(config, until="select")  # the folder lies elsewhere than where the tables were made
    listed = survey(config)
    shutil.move(folder / "inputs/pool", folder / "elsewhere")
    with pytest.raises(UserError, match=r"train: .* images of role pool .*train.max_reject_share.*unreadable"):
        run_pipeline(listed, LocalEngine, mini.Silent(), only=("train",))
    shutil.move(folder / "elsewhere", folder / "inputs/pool")
    assert ran(bring(config, only=("train",))) == {"train": 1}


def test_figures_of_images_that_are_gone_are_refused_and_those_of_none_break_a_law(folder: Path) -> None:
    config = load_config(folder / "config.yaml", ("teacher.crop_pct=0.8", "label.num_kept=1"))
    bring(config, until="finetune")
    listed, evaluations = survey(config), Workspace(config.workspace).tables["evaluations"]
    before = evaluations.version()
    shutil.move(folder / "inputs/validation", folder / "elsewhere")
    with pytest.raises(UserError, match="evaluate: 12 of 12 labelled images of the input 'protected' cannot be used"):
        run_pipeline(listed, LocalEngine, mini.Silent(), only=("evaluate",))
    assert evaluations.version() == before
    part = next(iter(evaluations.parts().values()))
    rows = evaluations.read(part)
    none = pa.array([0] * len(rows), rows.schema.field("num_images").type)
    rows = rows.set_column(rows.schema.get_field_index("num_images"), "num_images", none)
    evaluations.commit([evaluations.write(rows, {"part": part.name}, part.fingerprint, {}, {})], [part])
    broken = {v.law.name: v.num_broken for v in verify_laws(Workspace(config.workspace), config) if v.num_broken}
    assert broken == {"evaluations_measured": 4}


def test_the_plan_of_another_verdict_says_what_may_follow(folder: Path) -> None:
    (folder / "denied.txt").write_text("pool/pool-0.tar/000.jpg\n")
    foreseen = planned(load_config(folder / "config.yaml", (f"dedupe.deny=[{folder / 'denied.txt'}]",)))
    why = "waits for duplicates (only parts whose images change run)"
    assert foreseen["label"].reasons() == [(why, len(foreseen["label"].units))]
    assert foreseen["train"].changes and not foreseen["find_copies"].changes


def test_new_weights_of_the_teacher_leave_the_baseline_alone(folder: Path) -> None:
    mini.write_teacher(folder / "teacher.safetensors", seed=1)
    foreseen = planned(load_config(folder / "config.yaml"))
    assert foreseen["train"].changes and not foreseen["baseline"].changes


def test_a_folder_that_cannot_be_listed_today_is_not_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssld_pipeline.inputs import walk

    def fail_at_disc(root: str, relative: str, *, real: Any = walk.enter) -> Any:
        if relative == "disc":
            raise OSError(5, "Input/output error")
        return real(root, relative)

    monkeypatch.setattr(walk, "enter", fail_at_disc)
    with pytest.raises(UserError, match="cannot be listed, so their copies would stay in the pool: protected/disc"):
        survey(load_config(folder / "config.yaml"))
    config = load_config(folder / "config.yaml", ("dedupe.against=[train]", "inputs.labeled.name=train"))
    with pytest.raises(UserError, match="train/disc"):
        survey(config)


def test_protected_images_that_cannot_be_read_stop_the_index(world: Path) -> None:
    config = load_config(world)
    bring(config, until="catalog")
    (world.parent / "inputs/validation/disc/0.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 of 12 images of the input 'protected' cannot be used.*protected/disc/0\.jpg \(unreadable"
    ):
        run_index_on_the_old_listing(config)


def run_index_on_the_old_listing(config: RunConfig) -> None:
    """As when the disk goes away between the driver's listing and the worker's reading."""
    from ssld_pipeline.contracts import CATALOG
    from ssld_pipeline.stages.index_protected import STAGE

    rows = run_sql(Workspace(config.workspace), "SELECT * FROM catalog WHERE role = 'protected'").cast(CATALOG.schema())
    place = Path(config.workspace) / "scratch"
    place.mkdir()
    STAGE.build(Setup(config, mini.CLASSES, {}), rows, place)
