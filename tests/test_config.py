"""A config file as a person writes it: every mistake is one clear UserError, every path starts at the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini
import pytest
import yaml

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.terms.hard_ce import HardCe


def load(folder: Path, *overrides: str, **changes: Any) -> RunConfig:
    return load_config(mini.write_config(folder, **changes), overrides)


def message(folder: Path, *overrides: str, **changes: Any) -> str:
    """What the person is told."""
    with pytest.raises(UserError) as caught:
        load(folder, *overrides, **changes)
    return str(caught.value)


def without(section: str) -> str:
    return yaml.safe_dump({k: v for k, v in mini.settings().items() if k != section})


# What is not there, or no config at all


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: [1, 2", "cannot be read as YAML"),
        ("", "must hold a mapping of settings, got NoneType"),
        ("- a\n- b\n", "must hold a mapping of settings, got list"),
        (b"workspace: \xff\xfe", "cannot be read as YAML"),
        ("workspace: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_no_config_at_all(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        load_config(path)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize("section", ["workspace", "inputs", "teacher", "student"])
def test_missing_section(tmp_path: Path, section: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(without(section))
    with pytest.raises(UserError, match=rf"(?m)^  {section}: missing\b"):
        load_config(path)


# Wrong keys and values


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trian": {}}, "trian: unknown key; did you mean 'train'?"),
        ({"train": {"learning_rate": 1, "leer": 1}}, "train.learning_rate: unknown key"),
        ({"train": {"batchsize": 8}}, "train.batchsize: unknown key; did you mean 'batch_size'?"),
        ({"select": {"perclass": 3}}, "select.perclass: unknown key; did you mean 'per_class'?"),
        ({"placement": {"num_worker": 3}}, "placement.num_worker: unknown key; did you mean 'num_workers'?"),
        ({"finetune": {"epoch": 3}}, "finetune.epoch: unknown key; did you mean 'epochs'?"),
        ({"inputs": {"pools": {"uri": "a", "format": "tar"}}}, "inputs.pools: unknown key; did you mean 'pool'?"),
        ({"inputs": {"pool": {"url": "a", "format": "tar"}}}, "inputs.pool.0.url: unknown key; did you mean 'uri'?"),
        (
            {"teacher": {"model": "timm:resnet18", "weights": None, "fit": {"data": {"url": "a", "format": "tar"}}}},
            "teacher.fit.data.url: unknown key; did you mean 'uri'?",
        ),
        ({"label": {"zzz": 3}}, "label.zzz: unknown key; known: max_reject_share, num_kept"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert says in message(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "place", "got"),
    [
        ({"train": {"epochs": "many"}}, "train.epochs", "'many'"),
        ({"train": {"lr": -1}}, "train.lr", "-1"),
        ({"train": {"loss": "mse"}}, "train.loss", "'mse'"),
        ({"train": [1]}, "train", "[1]"),
        ({"select": {"per_class": 1.5}}, "select.per_class", "1.5"),
        ({"label": {"max_reject_share": 7}}, "label.max_reject_share", "7"),
        ({"inputs": {"pool": {"uri": "a", "format": "zip"}}}, "inputs.pool.0.format", "'zip'"),
        ({"inputs": {"pool": "a.tar"}}, "inputs.pool.0", "'a.tar'"),
        ({"inputs": {"pool": {"uri": "a", "format": "tar", "name": "a/b"}}}, "inputs.pool.0.name", "'a/b'"),
        ({"inputs": {"pool": {"uri": "a", "format": "tar", "name": ".."}}}, "inputs.pool.0.name", "'..'"),
        ({"student": {"model": "timm:resnet18", "mean": [123.675, 0.5, 0.5]}}, "student.mean.0", "123.675"),
        ({"student": {"model": "timm:resnet18", "std": [0.5, 0.0, 0.5]}}, "student.std.1", "0.0"),
        ({"student": {"model": "timm:resnet18", "std": [0.5, 0.5, -1]}}, "student.std.2", "-1"),
        ({"student": {"model": "timm:resnet18", "mean": [0.5, float("nan"), 0.5]}}, "student.mean.1", "nan"),
        ({"student": {"model": "timm:resnet18", "std": [float("inf"), 0.5, 0.5]}}, "student.std.0", "inf"),
        ({"workspace": None}, "workspace", "None"),
        ({"finetune": {"lr": 0}}, "finetune.lr", "0"),
    ],
)
def test_wrong_value_is_told_with_its_place(tmp_path: Path, changes: dict[str, Any], place: str, got: str) -> None:
    told = message(tmp_path, **changes)
    assert any(line.startswith(f"  {place}: ") and line.endswith(f"got {got}") for line in told.splitlines()), told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = message(tmp_path, trian={}, select={"per_class": 0}, label={"num_kpt": 3})
    assert str(tmp_path / "config.yaml") in told
    assert all(place in told for place in ("trian", "select.per_class", "label.num_kpt"))


# Names of inputs


def two(**second: str) -> dict[str, Any]:
    first, other = {"uri": "a", "format": "folder"}, {"uri": "b", "format": "folder", **second}
    return {**mini.settings()["inputs"], "protected": [first, other]}


def test_two_inputs_of_a_role_need_names(tmp_path: Path) -> None:
    assert "two inputs are called 'protected'" in message(tmp_path, inputs=two())
    assert load(tmp_path, inputs=two(name="test")).named_inputs().keys() == {"labeled", "protected", "test", "pool"}


def test_an_input_may_not_take_the_name_of_another_role(tmp_path: Path) -> None:
    assert "two inputs are called 'pool'" in message(tmp_path, inputs=two(name="pool"))


def test_teacher_data_are_an_input_of_their_own(tmp_path: Path) -> None:
    teacher = {**mini.settings()["teacher"], "fit": {"data": {"uri": "a", "format": "folder"}}}
    assert load(tmp_path, teacher=teacher).named_inputs()["teacher"][0] == "teacher"
    assert "two inputs are called 'teacher'" in message(tmp_path, teacher=teacher, inputs=two(name="teacher"))


# Training processes


def test_batches_that_the_training_processes_cannot_share_are_told_at_once(tmp_path: Path) -> None:
    """The publication's batches on its 24 GPUs: train's could be shared."""
    teacher = {**mini.settings()["teacher"], "fit": {"batch_size": 64, "norm_batch": 8}}
    train, finetune = {"batch_size": 5760, "norm_batch": 240}, {"batch_size": 2048, "norm_batch": 256}
    changes = {"train": train, "finetune": finetune, "teacher": teacher}
    said = message(tmp_path, "placement={train_workers: 24}", **changes)
    assert "24 training processes" in said and "of train " not in said
    assert "the 8 norm batches of teacher.fit" in said and "the 8 norm batches of finetune" in said
    assert load(tmp_path, "placement={train_workers: 8}", **changes).placement.train_workers == 8
    assert load(tmp_path, "placement={train_workers: 24, runner: local}", **changes).placement.runner == "local"


def test_a_training_takes_the_numbers_of_processes_that_divide_its_norm_batches(tmp_path: Path) -> None:
    changes = {"train": {"batch_size": 5760, "norm_batch": 240}, "finetune": None, "baseline": None}
    placement = load(tmp_path, "placement={train_workers: [5, 16]}", **changes).placement
    assert placement.workers_for(24) == (6, 8, 12) and placement.workers_for(32) == (8, 16)
    assert "13 to 23 training processes" in message(tmp_path, "placement={train_workers: [13, 23]}", **changes)
    assert "[fewest, most]" in message(tmp_path, "placement={train_workers: [8, 2]}", **changes)


# --set


def test_set_replaces_adds_and_reads_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "select.per_class=7",
        "dedupe.against=[labeled, protected]",
        "finetune=null",
        "teacher.model_args.drop_rate=0.5",
        "label={num_kept: 3}",
        "classes=",
    )
    assert config.select.per_class == 7
    assert config.dedupe.against == ("labeled", "protected")
    assert config.finetune is None
    assert config.teacher.model_args == {"drop_rate": 0.5}
    assert config.label.num_kept == 3
    assert config.classes is None


def test_set_reaches_into_lists(tmp_path: Path) -> None:
    config = load(tmp_path, "inputs.protected.1.uri=c", inputs=two(name="test"))
    assert [Path(i.uri).name for i in config.inputs.protected] == ["a", "c"]


def test_set_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load(tmp_path, "workspace=s3://bucket/a=b").workspace == "s3://bucket/a=b"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("select.per_class", "expected key=value"),
        ("=3", "expected key=value"),
        ("workspace.a=3", "no section"),
        ("workspace.a.b=3", "no section"),
        ("select.per_class=[1", "not YAML"),
        ("select.perclass=3", "did you mean 'per_class'?"),
        ("select.per_class=many", "got 'many'"),
        ("inputs.protected.7.uri=c", "no section"),
        ("select..per_class=3", "unknown key"),
    ],
)
def test_set_mistakes(tmp_path: Path, override: str, says: str) -> None:
    assert says in message(tmp_path, override, inputs=two(name="test"))


# Paths


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    teacher = {**mini.settings()["teacher"], "fit": {"data": {"uri": "../t", "format": "folder"}}}
    student = {"model": "timm:resnet18", "weights": "s.safetensors"}
    mini.write_config(folder, teacher=teacher, classes="c.txt", student=student)
    monkeypatch.chdir(tmp_path)
    config = load_config("deep/er/config.yaml")
    assert config.teacher.fit is not None
    assert config.teacher.fit.data is not None
    assert config.workspace == str(folder / "workspace")
    assert config.classes == str(folder / "c.txt")
    assert config.teacher.weights == str(folder / "teacher.safetensors")
    assert config.student.weights == str(folder / "s.safetensors")
    assert config.inputs.pool[0].uri == str(folder / "inputs" / "pool")
    assert Path(config.teacher.fit.data.uri).resolve() == (tmp_path / "deep" / "t").resolve()


def test_absolute_paths_uris_and_home_stay(tmp_path: Path) -> None:
    inputs = {
        "labeled": {"uri": "/data/train", "format": "folder"},
        "protected": {"uri": "~/val", "format": "folder"},
        "pool": {"uri": "s3://bucket/pool/*.tar", "format": "tar"},
    }
    config = load(tmp_path, inputs=inputs, workspace="gs://bucket/run")
    assert config.workspace == "gs://bucket/run"
    assert config.inputs.labeled[0].uri == "/data/train"
    assert config.inputs.protected[0].uri == str(Path.home() / "val")
    assert config.inputs.pool[0].uri == "s3://bucket/pool/*.tar"


# finetune, baseline and fit inherit


def test_finetune_and_baseline_inherit_from_train(tmp_path: Path) -> None:
    train = {"epochs": 9, "batch_size": 48, "lr": 0.5, "image_size": 64, "loss": "symmetric_kl", "seed": 3}
    config = load(tmp_path, train=train, finetune={"epochs": 2, "lr": 0.005}, baseline={})
    assert config.finetune is not None
    assert config.baseline is not None
    changes = {"epochs": 2, "lr": 0.005, "init": "train", "data": "labeled"}
    assert config.finetune == config.train.model_copy(update=changes)
    labels_only = {"objective": (HardCe(rows="all"),), "teacher": None, "data": "labeled"}
    assert config.baseline == config.train.model_copy(update=labels_only)


def test_steps_are_inherited_only_where_they_make_sense(tmp_path: Path) -> None:
    """Steps overrule epochs, so a finetune in epochs must not inherit them; the baseline counts its own."""
    config = load(tmp_path, train={"steps": 700}, finetune={"epochs": 2}, baseline={})
    assert config.finetune is not None
    assert config.baseline is not None
    assert (config.finetune.steps, config.finetune.epochs) == (None, 2)
    assert config.baseline.steps is None
    own = load(tmp_path, train={"steps": 700}, finetune={"lr": 0.1}, baseline={"steps": 50, "lr": 0.2})
    assert own.finetune is not None
    assert own.baseline is not None
    assert (own.finetune.steps, own.baseline.steps, own.baseline.lr) == (700, 50, 0.2)
    with pytest.raises(UserError, match=r"baseline\.teacher must be null"):
        load(tmp_path, baseline={"loss": "js"})


def test_overrides_are_inherited_too(tmp_path: Path) -> None:
    config = load(tmp_path, "train.weight_decay=0.25", finetune={"epochs": 1}, baseline=None)
    assert config.finetune is not None
    assert config.finetune.weight_decay == 0.25
    assert config.baseline is None


def test_inheritance_without_a_train_section(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(without("train"))
    config = load_config(path)
    assert config.finetune is not None
    changes = {"epochs": 1, "lr": 0.01, "init": "train", "data": "labeled"}
    assert config.finetune == config.train.model_copy(update=changes)


def test_teacher_is_fitted_at_its_own_size_unless_told(tmp_path: Path) -> None:
    teacher = {**mini.settings()["teacher"], "image_size": 160, "crop_pct": 0.9, "fit": {"epochs": 2}}
    fit = load(tmp_path, teacher=teacher).teacher.fit
    assert fit is not None
    assert (fit.image_size, fit.crop_pct) == (160, 0.9)
    fit = load(tmp_path, "teacher.fit.image_size=96", teacher=teacher).teacher.fit
    assert fit is not None
    assert (fit.image_size, fit.crop_pct) == (96, 0.9)
