"""The graph of trainings: what a config may say of it, and what each node takes from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini
import pytest
import yaml

from ssld_pipeline.config.graph import RESERVED
from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.presets import preset_names, read_preset
from ssld_pipeline.config.recipe import FIRST_SETTINGS, WITHOUT_EFFECT, RecipeSettings
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.contracts import ROLES, TABLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.pipeline import stage_of, stages
from ssld_pipeline.stages.networks import check_networks
from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.store.workspace import ARTIFACT_STAGES
from ssld_pipeline.training.job import OnlineTeacher, TrainJob

SMALL = {"epochs": 1, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32, "validations": 0}


def graph(folder: Path, **trainings: Any) -> Path:
    """A config of these trainings only; keys of SMALL are filled in."""
    nodes = {name: {**SMALL, **node} for name, node in trainings.items()}
    own = {k: v for k, v in mini.settings().items() if k not in ("train", "finetune", "baseline")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**own, "trainings": nodes}))
    return path


def load(folder: Path, **trainings: Any) -> RunConfig:
    return load_config(graph(folder, **trainings))


def message(folder: Path, **trainings: Any) -> str:
    with pytest.raises(UserError) as error:
        load(folder, **trainings)
    return str(error.value)


def job(config: RunConfig, name: str) -> TrainJob:
    folders = {other: Path("models", other) for other in config.nodes}
    data = TrainData(("m",), ("l",), ("v",), ("t",), 24, 12, inputs={"more": ("x",)})
    return stage_of(config, name, TrainStage).job(Setup(config, mini.CLASSES, folders), data)


# What a config may say


def test_a_config_without_trainings_trains_as_before(tmp_path: Path) -> None:
    config = load_config(mini.write_config(tmp_path, train={"lr": 0.3}))
    assert list(config.ordered_nodes()) == ["baseline", "train", "finetune"]
    assert config.nodes["finetune"].init == "train" and config.nodes["finetune"].lr == 0.01
    assert list(load(tmp_path, one={}).nodes) == ["one"], "train exists only if it is named"


def test_stages_follow_what_they_start_from_and_learn_from(tmp_path: Path) -> None:
    config = load(tmp_path, small={"teacher": "big"}, big={"init": "start"}, start={})
    assert list(config.ordered_nodes()) == ["start", "big", "small"]
    names = [stage.name for stage in stages(config)]
    assert names.index("select") < names.index("start") and names[-1] == "evaluate"


@pytest.mark.parametrize(
    ("trainings", "says"),
    [
        ({"a": {"init": "b"}, "b": {"teacher": "a"}}, "trainings form a cycle: a -> b -> a"),
        ({"a": {"init": "b"}, "b": {"together": "a"}}, "trainings form a cycle"),
        ({"one": {"init": "onne"}, "other": {}}, "trainings.one.init: 'onne' is no training; known: other, a weights"),
        (
            {"one": {"teacher": "othr"}, "other": {}},
            "trainings.one.teacher: 'othr' is no training; did you mean 'other'",
        ),
        ({"one": {"together": "two"}}, "trainings.one.together: 'two' is no training; there is no other"),
        ({"one": {"teacher": "one"}}, "trainings.one.teacher: 'one' is this training itself"),
        ({"one": {"data": "protected"}}, "trainings.one.data: 'protected' is a protected input"),
        ({"one": {"data": "pool"}}, "trainings.one.data: 'pool' is a pool"),
        ({"one": {"data": "lables"}}, "trainings.one.data: 'lables' is no input; did you mean 'labeled'?"),
        ({"label": {}}, "trainings.label: 'label' already means something else"),
        ({"One": {}}, "trainings.One: a name must be of a-z"),
        (
            {"one": {"preset": "resnet50_vd/stage3"}},
            "trainings.one.preset: no preset is called 'resnet50_vd/stage3'; did",
        ),
        ({"one": {"batch_size": 12, "norm_batch": 5}}, "trainings.one.norm_batch: 5 does not divide batch_size, 12"),
        ({"one": {"teacher": None, "objective": ["js"]}}, "trainings.one.objective: js needs a teacher"),
        ({"one": {"objective": ["hard_ce"]}}, "trainings.one.objective: no term uses the teacher; set teacher: null"),
        (
            {"one": {"objective": ["symetric_kl"]}},
            "trainings.one.objective.0: no term is called 'symetric_kl'; did you",
        ),
        (
            {"one": {"objective": [{"term": "js", "temprature": 1}]}},
            "trainings.one.objective.0.temprature: unknown key; did you mean 'temperature'?",
        ),
        (
            {"one": {"objective": ["js", {"term": "hard_ce", "label_smothing": 0.1}]}},
            "trainings.one.objective.1.label_smothing: unknown key; did you mean 'label_smoothing'?",
        ),
        (
            {"one": {"objective": ["js", {"term": "hard_ce", "label_smoothing": 1}]}},
            "trainings.one.objective.1.label_smoothing: Input should be less than 1",
        ),
        (
            {"one": {"objective": [{"term": "dist", "beta": 0, "gamma": 0}]}},
            "trainings.one.objective.0: beta and gamma are both 0, so that nothing is learnt",
        ),
        (
            {"one": {"objective": [{"term": "dist", "tau": 4}]}},
            "trainings.one.objective.0.tau: unknown key; known: weight, term, beta, gamma, temperature, over",
        ),
        (
            {"one": {"objective": [{"term": "dist", "over": "batch"}]}},
            "trainings.one.objective.0.over: Input should be 'norm_batch'",
        ),
        (
            {"one": {"objective": [{"term": "decoupled_kd", "rows": "all", "alpha": 0, "beta": 0}]}},
            "trainings.one.objective.0: alpha and beta are both 0, so that nothing is learnt",
        ),
        (
            {"one": {"objective": ["decoupled_dk"]}},
            "trainings.one.objective.0: no term is called 'decoupled_dk'; did you mean 'decoupled_kd'?",
        ),
        (
            {"one": {"teacher": None, "objective": ["decoupled_kd"]}},
            "trainings.one.objective: decoupled_kd needs a teacher",
        ),
        (
            {"one": {"objective": ["decoupled_kd", "hard_ce"]}},
            "trainings.one.objective: decoupled_kd, hard_ce learns nothing from the mined images",
        ),
        ({"one": {"batchsize": 8}}, "trainings.one.batchsize: unknown key; did you mean 'batch_size'?"),
        (
            {"one": {"student": {"model": "timm:test_vit", "modle_args": {}}}},
            "trainings.one.student.modle_args: unknown key; did you mean 'model_args'?",
        ),
        ({"one": {"strategy": "mutual"}}, "trainings.one.strategy"),
        (
            {"one": {}, "two": {"teacher": "one", "loss": "ce"}},
            "trainings.two.loss: ce learns from labels only, but teacher is 'one'; set teacher: null",
        ),
        ({"one": {"head": "keep"}}, "trainings.one.head: keep, but it starts from no weights"),
        (
            {"one": {"teacher": None, "objective": ["hard_ce"]}},
            "trainings.one.objective: hard_ce learns nothing from the mined images",
        ),
        ({"one": {"teacher": ["teacher", "two"]}, "two": {}}, "trainings.one.teacher"),
        ({"a": {}, "b": {"together": "a", "data": "labeled"}}, "trainings.b.data is labeled, but 'a', with which"),
        ({"a": {}, "b": {"together": "a", "batch_size": 4}}, "trainings.b.batch_size is 4, but 'a'"),
        ({"a": {}, "b": {"together": "a", "norm_batch": 4}}, "trainings.b.norm_batch is 4, but 'a'"),
        (
            {"a": {}, "b": {"init": "a", "student": {"model": "timm:test_vit"}}},
            "trainings.b.student is timm:test_vit, but",
        ),
        (
            {"a": {"init": "w.safetensors", "student": {"model": "timm:test_vit", "weights": "w"}}},
            "trainings.a.init: student.weights says",
        ),
    ],
)
def test_each_mistake_is_one_message_that_names_the_key(tmp_path: Path, trainings: dict[str, Any], says: str) -> None:
    assert says in message(tmp_path, **trainings)


def test_a_mistake_in_a_term_is_told_once(tmp_path: Path) -> None:
    said = message(tmp_path, one={"objective": [{"term": "js", "weight": 0}]})
    assert said.count("\n") == 1 and "trainings.one.objective.0.weight: Input should be greater than 0" in said


def test_a_node_and_a_section_of_one_name_are_one_message(tmp_path: Path) -> None:
    path = mini.write_config(tmp_path, trainings={"train": SMALL})
    with pytest.raises(UserError, match=r"trainings\.train: there is a section 'train' too"):
        load_config(path)


def said_of(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        load_config(mini.write_config(folder, **changes))
    return str(error.value)


def test_mistakes_of_the_sections_are_one_message(tmp_path: Path) -> None:
    fit = {**mini.settings()["teacher"], "fit": {"data": {"uri": "more", "format": "folder"}}}
    stored = {**SMALL, "data": "teacher", "teacher": "stored", "teacher_batch_norm": "eval"}
    said = said_of(tmp_path, teacher=fit, label={"views": 2, "num_kept": 2}, trainings={"one": stored})
    assert "trainings.one.teacher: stored, but of 'teacher'" in said
    pair = {**mini.settings()["train"], "data": "labeled", "loss": "ce", "together": "baseline"}
    assert "baseline.steps: missing; without it" in said_of(tmp_path, trainings={"pair": pair})
    alone = {key: value for key, value in mini.settings().items() if key not in ("train", "finetune")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**alone, "trainings": {"one": SMALL}}))
    with pytest.raises(UserError, match=r"baseline\.steps: missing, since there is no train"):
        load_config(path)


def test_reserved_names_are_those_that_mean_something_else(tmp_path: Path) -> None:
    config = load(tmp_path, one={})
    fixed = {stage.name for stage in stages(config)} - {"one"}
    assert fixed | set(TABLES) | set(ROLES) | {"manifest", "stored", "teacher"} <= RESERVED
    folders = {stage.name for stage in stages(config) if stage.table is None and not isinstance(stage, TrainStage)}
    assert folders == set(ARTIFACT_STAGES)


# What a node takes from where


def test_every_preset_is_a_training(tmp_path: Path) -> None:
    assert len(preset_names()) >= 14
    for name in preset_names():
        node = load(tmp_path, one={"preset": name, "batch_size": 8, "norm_batch": 8}).nodes["one"]
        assert node.preset == name
        assert TrainingConfig.model_validate(read_preset(name)).num_micro_batches >= 8


def test_keys_of_the_config_win_over_the_preset(tmp_path: Path) -> None:
    preset = read_preset("mobilenetv3_large/stage1")
    path = tmp_path / "config.yaml"
    own = {k: v for k, v in mini.settings().items() if k not in ("train", "finetune", "baseline", "student")}
    node = {
        "preset": "mobilenetv3_large/stage1",
        "lr": 0.5,
        "student": {"model_args": {"drop_rate": 0.2}},
        "loss": "js",
    }
    path.write_text(yaml.safe_dump({**own, "trainings": {"one": node}}))
    found = load_config(path).nodes["one"]
    assert (found.lr, found.norm_batch, found.batch_size) == (0.5, preset["norm_batch"], 5760)
    assert found.student is not None and found.student.model == "timm:mobilenetv3_large_100"
    assert found.student.model_args == {"drop_rate": 0.2} and found.objective[0].name == "js"


def test_a_node_has_the_network_of_what_it_starts_from(tmp_path: Path) -> None:
    nodes = {"a": {"student": {"model": "timm:test_vit"}}, "b": {"init": "a"}, "c": {"init": "w/x.safetensors"}}
    config = load(tmp_path, **nodes)
    assert [job(config, name).student.model for name in "abc"] == ["timm:test_vit"] * 2 + ["timm:test_efficientnet"]
    assert job(config, "b").student.weights == "models/a/student.safetensors"
    assert job(config, "c").student.weights == str(tmp_path / "w/x.safetensors")


def test_the_sections_inherit_from_a_train_wherever_it_is_written(tmp_path: Path) -> None:
    own = {key: value for key, value in mini.settings().items() if key != "train"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**own, "trainings": {"train": SMALL}}))
    config = load_config(path)
    assert config.nodes["finetune"].batch_size == config.nodes["baseline"].batch_size == 8
    path.write_text(yaml.safe_dump({**own, "trainings": None}))
    assert load_config(path).nodes["train"].batch_size == 5760, "all that is under trainings is commented out"


def test_the_weights_of_the_student_of_train_are_not_those_that_finetune_starts_from(tmp_path: Path) -> None:
    student = {"model": "timm:test_vit", "weights": "w.safetensors"}
    config = load_config(mini.write_config(tmp_path, train={**SMALL, "student": student}))
    started = {name: str(job(config, name).student.weights) for name in config.nodes}
    own = str(tmp_path / "w.safetensors")
    assert started == {"train": own, "finetune": "models/train/student.safetensors", "baseline": own}


def test_hard_labels_leave_the_teacher_of_train_out(tmp_path: Path) -> None:
    train = {**SMALL, "teacher": "big"}
    config = load_config(mini.write_config(tmp_path, train=train, finetune={"loss": "ce"}, trainings={"big": SMALL}))
    assert config.nodes["finetune"].teacher is None and config.nodes["train"].teacher == "big"


def test_a_baseline_starts_as_train_does(tmp_path: Path) -> None:
    """Or the pool would seem to be worth what the weights are."""
    train = {**SMALL, "init": "w.safetensors", "head": "new"}
    baseline = job(load_config(mini.write_config(tmp_path, train=train)), "baseline").student
    assert (baseline.weights, baseline.head) == (str(tmp_path / "w.safetensors"), "new")
    taught = load_config(mini.write_config(tmp_path, train={**SMALL, "init": "other"}, trainings={"other": SMALL}))
    assert job(taught, "baseline").student.weights is None, "not from what the pool taught"
    labels = load_config(mini.write_config(tmp_path, baseline={"objective": [{"term": "hard_ce", "weight": 2}]}))
    assert labels.nodes["baseline"].teacher is None


def test_a_baseline_has_the_steps_of_train_whatever_that_reads(tmp_path: Path) -> None:
    inputs = mini.settings()["inputs"]
    labeled = [inputs["labeled"], {"uri": "inputs/more", "format": "folder", "name": "more"}]
    train = {**SMALL, "data": "more", "epochs": 3}
    path = mini.write_config(tmp_path, inputs={**inputs, "labeled": labeled}, train=train, finetune=None)
    config = load_config(path)
    data = TrainData(("m",), ("l",), ("v",), ("t",), 24, 12, inputs={"more": ("x",)}, num_of_input={"more": 16})
    assert stage_of(config, "baseline", TrainStage).job(Setup(config, mini.CLASSES, {}), data).settings.steps == 6


def test_a_finished_student_teaches_at_its_own_size(tmp_path: Path) -> None:
    config = load(tmp_path, big={"image_size": 48, "student": {"model": "timm:test_vit"}}, small={"teacher": "big"})
    teacher = job(config, "small").teacher
    assert isinstance(teacher, OnlineTeacher)
    assert (teacher.spec.model, teacher.spec.weights) == ("timm:test_vit", "models/big/student.safetensors")
    assert teacher.image_size == 48


def test_licences_follow_the_weights(tmp_path: Path) -> None:
    path = graph(
        tmp_path, big={}, small={"teacher": "big"}, plain={"teacher": None}, tuned={"init": "big", "loss": "ce"}
    )
    config = load_config(path, ("teacher.licence=MIT",))
    found = {name: job(config, name).licence for name in config.nodes}
    assert found == {"big": "MIT", "small": "MIT", "plain": None, "tuned": "MIT"}


# Fingerprints


def test_settings_that_came_later_are_absent_at_their_defaults(tmp_path: Path) -> None:
    """Their defaults are part of every fingerprint ever made, so each is written here and never changes."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in RecipeSettings.model_fields.items()
        if name not in FIRST_SETTINGS | WITHOUT_EFFECT
    }
    assert defaults == {"norm_batch": None}
    assert TrainingConfig(objective=("js",)).of_fingerprint()["objective"] == [{"term": "js"}]


def test_a_new_setting_at_its_default_changes_no_fingerprint(tmp_path: Path) -> None:
    class Later(TrainingConfig):
        sharpness: float = 0.0

    first = TrainingConfig(lr=0.1).of_fingerprint()
    assert Later(lr=0.1).of_fingerprint() == first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"validations": 1}, {"validations": 7}),
        ({"crop_pct": 0.8}, {"crop_pct": 1.0}),
        ({"max_reject_share": 0.1}, {"max_reject_share": 0.9}),
        ({"loss": "ce", "temperature": 1.0}, {"loss": "ce", "temperature": 4.0}),
        ({"steps": 7, "epochs": 1}, {"steps": 7, "epochs": 2}),
        ({"batch_size": 64}, {"batch_size": 64, "norm_batch": 64}),
        ({"teacher": None, "teacher_batch_norm": "eval"}, {"teacher": None}),
        ({"loss": "symmetric_kl"}, {"objective": [{"term": "symmetric_kl", "weight": 1.0}]}),
        ({"head": "new"}, {"head": "auto"}),
    ],
)
def test_what_cannot_change_the_weights_changes_no_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = (TrainingConfig.model_validate(keys).of_fingerprint() for keys in (one, other))
    assert first == second


def settings_of(config: RunConfig, name: str) -> dict[str, Any]:
    stage = stage_of(config, name, TrainStage)
    return {"config": stage.settings(config), "artifacts": sorted(stage.artifacts)}


def test_it_matters_which_of_two_models_is_the_start_and_which_teaches(tmp_path: Path) -> None:
    both: dict[str, Any] = {"a": {}, "b": {}}
    one = load(tmp_path, **both, c={"init": "a", "teacher": "b"})
    other = load(tmp_path, **both, c={"init": "b", "teacher": "a"})
    assert settings_of(one, "c") != settings_of(other, "c")


def test_the_head_of_the_top_level_student_counts(tmp_path: Path) -> None:
    weights = ("student.weights=w.safetensors",)
    one, other = (load_config(graph(tmp_path, a={"head": head}), weights) for head in ("auto", "new"))
    assert settings_of(one, "a") != settings_of(other, "a")
    one, other = (load(tmp_path, a={"head": head}) for head in ("auto", "new"))
    assert settings_of(one, "a") == settings_of(other, "a"), "a random start has no head to keep"


# Before any work


def check(folder: Path, **trainings: Any) -> str:
    mini.write_teacher(folder / "teacher.safetensors")
    config = load(folder, **trainings)
    with pytest.raises(UserError) as error:
        check_networks(Setup(config, mini.CLASSES, {}))
    return str(error.value)


def test_a_head_that_does_not_fit_is_told_with_its_key(tmp_path: Path) -> None:
    save_weights(build(ModelSpec("timm:test_efficientnet", 5)), tmp_path / "five.safetensors")
    said = check(tmp_path, one={"init": "./five.safetensors", "head": "keep"})
    assert said.startswith("trainings.one.head: keep: weights ") and "5 classes, the run has 3" in said
    config = load(tmp_path, one={"init": "./five.safetensors"})
    check_networks(Setup(config, mini.CLASSES, {}))  # auto: a fresh one


def test_dist_does_not_begin_with_a_classifier_of_zeros(tmp_path: Path) -> None:
    save_weights(build(ModelSpec("timm:test_efficientnet", 5)), tmp_path / "five.safetensors")
    node = {"init": "./five.safetensors", "objective": ["dist", "kl"]}
    assert check(tmp_path, one=node).startswith("trainings.one.objective: dist cannot begin with a new classifier")
    scratch, later = {"objective": ["dist"]}, {"objective": ["dist"], "init": "one"}
    check_networks(
        Setup(load(tmp_path, one={"init": "./five.safetensors"}, two=scratch, three=later), mini.CLASSES, {})
    )


def test_weights_of_another_network_are_told_with_their_key(tmp_path: Path) -> None:
    save_weights(build(ModelSpec("timm:test_vit", 3)), tmp_path / "vit.safetensors")
    assert check(tmp_path, one={"init": "./vit.safetensors"}).startswith("trainings.one.init: weights ")


def test_a_large_batch_of_a_network_with_batch_norm_needs_a_norm_batch(tmp_path: Path) -> None:
    said = check(tmp_path, one={"batch_size": 512})
    assert "norm_batch is missing in trainings.one (batch_size 512)" in said and "32 for the ResNets" in said
    taught = check(tmp_path, one={"batch_size": 512, "student": {"model": "timm:test_vit"}, "image_size": 160})
    assert "model 'timm:test_resnet' has batch norm" in taught, "the teacher's, in train mode"
    vit = {"batch_size": 512, "student": {"model": "timm:test_vit"}, "image_size": 160, "teacher_batch_norm": "eval"}
    check_networks(Setup(load(tmp_path, one=vit), mini.CLASSES, {}))
    assert load(tmp_path, one=vit).nodes["one"].images_per_norm == 256


def test_one_image_per_norm_batch_is_refused_where_it_leaves_one_value_per_channel(tmp_path: Path) -> None:
    single = {"norm_batch": 1, "student": {"model": "timm:test_resnet"}, "teacher_batch_norm": "eval"}
    said = check(tmp_path, one={**single, "image_size": 32})
    check_networks(Setup(load(tmp_path, one={**single, "image_size": 96}), mini.CLASSES, {}))
    assert said.startswith("trainings.one.norm_batch: 1, with images of 32, but model 'timm:test_resnet'"), said
