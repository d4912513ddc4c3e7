"""Several teachers as one, and teachers whose classes are not the run's: against scipy, member by member."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mini
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.class_map import parse_class_map
from ssld_pipeline.models.ensemble import ClassMapping
from ssld_pipeline.models.predict import open_predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import EnsembleSpec, Member, ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.teacher import teacher_files, teacher_licence, teacher_settings, teacher_spec

CLASSES = ("cat", "dog", "eel")
VIEWS = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.3, 0.35)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of the run's three classes, of two libraries, and one of seven."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, model, num_classes in (
        ("a", "timm:test_resnet", 3),
        ("b", "torchvision:squeezenet1_1", 3),
        ("wide", "timm:test_resnet", 7),
    ):
        network = build(ModelSpec(model, num_classes))
        with torch.no_grad():  # so that classes differ clearly
            list(network.parameters())[-2].mul_(20)
        save_weights(network, folder / f"{name}.safetensors")
    return folder


def spec(folder: Path, name: str, num_classes: int = 3, **changes) -> ModelSpec:
    model = "torchvision:squeezenet1_1" if name == "b" else "timm:test_resnet"
    return replace(
        ModelSpec(model, num_classes, weights=str(folder / f"{name}.safetensors"), mean=MEAN, std=STD), **changes
    )


def logits(one: ModelSpec, views: np.ndarray = VIEWS) -> np.ndarray:
    with torch.no_grad():
        return build(one)(normalise(torch.from_numpy(views), one.mean, one.std)).double().numpy()


def probs(members: tuple[Member, ...], combine: str = "arithmetic", mean=MEAN, std=STD) -> np.ndarray:
    whole = EnsembleSpec("a + b", 3, weights="two files", mean=mean, std=std, members=members, combine=combine)
    return open_predictor(whole).probs(VIEWS)


def test_arithmetic_mean_with_temperatures_and_weights(folder):
    a, b = spec(folder, "a"), spec(folder, "b")
    found = probs((Member(a, weight=3, temperature=2.0), Member(b, weight=1, temperature=0.5)))
    expected = 0.75 * softmax(logits(a) / 2, axis=1) + 0.25 * softmax(logits(b) / 0.5, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - softmax(logits(a), axis=1)).max() > 0.05, "the members differ, or this test says nothing"


def test_geometric_mean(folder):
    a, b = spec(folder, "a"), spec(folder, "b")
    found = probs((Member(a, weight=3), Member(b, weight=1)), "geometric")
    expected = softmax(0.75 * log_softmax(logits(a), axis=1) + 0.25 * log_softmax(logits(b), axis=1), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_network_twice_is_the_network(folder):
    a = spec(folder, "a")
    for combine in ("arithmetic", "geometric"):
        np.testing.assert_allclose(probs((Member(a), Member(a)), combine), softmax(logits(a), axis=1), atol=1e-6)


def test_each_member_gets_its_own_normalisation(folder):
    a = spec(folder, "a")
    other = spec(folder, "b", mean=(0.1, 0.2, 0.3), std=(0.4, 0.3, 0.2))
    found = probs((Member(a), Member(other)))
    expected = softmax(logits(a), axis=1) / 2 + softmax(logits(other), axis=1) / 2
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_member_gets_its_own_size(folder):
    b = spec(folder, "b")
    found = probs((Member(b, image_size=96),))
    pixels = torch.from_numpy(VIEWS).permute(0, 3, 1, 2).float()
    scaled = resize(pixels, [96, 96], InterpolationMode.BILINEAR, antialias=True) / 255
    scaled = (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = torch.softmax(build(b)(scaled), dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(probs((Member(b, image_size=64),)), softmax(logits(b), axis=1), atol=1e-6)


MAP = '# seven classes to three\n5, cat\n\n0,dog\n3 , cat\n6,eel\n2,"eel"\n'


def test_classes_of_a_larger_head_are_mapped(folder):
    class_map = parse_class_map(MAP, CLASSES, "map.txt")
    found = probs((Member(spec(folder, "wide"), class_map=class_map, temperature=1.5),))
    theirs = softmax(logits(spec(folder, "wide", 7)) / 1.5, axis=1)
    kept = np.stack([theirs[:, [3, 5]].sum(1), theirs[:, 0], theirs[:, [2, 6]].sum(1)], axis=1)
    np.testing.assert_allclose(found, kept / kept.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("text", ["2,cat\n0,dog\n1,eel", "2,cat\n0,dog\n1,eel\n4,cat\n3,cat"])
def test_mapped_logits_are_log_sums_far_from_the_greatest_too(text):
    class_map = parse_class_map(text, CLASSES, "map.txt")
    given = np.array([[0.0, -400.0, 300.0, 299.0, -800.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    found = ClassMapping(class_map, 3)(torch.tensor(given)).numpy()
    own = [2, 3, 4] if "4" in text else [2]
    expected = np.stack([logsumexp(given[:, own], axis=1), given[:, 0], given[:, 1]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,cat\n1,dog\n2,ele", r"map\.txt, line 3: the run has no class 'ele'; there are 3, such as 'eel'"),
        ("0,cat\n1,dog\n\n0,eel", r"line 4: class 0 of the teacher stands in line 1 too"),
        ("0,cat\nx,dog\n1,eel", r"line 2: expected `number.*got 'x,dog'"),
        ("0,cat\n-1,dog\n1,eel", r"line 2: expected"),
        ("0,cat\n1\n2,eel", r"line 2: expected"),
        ("0,cat\n1,", r"line 2: expected"),
        ("0,cat\n1,cat", r"no class of the teacher is 'dog', 'eel' \(2 of the run's 3 classes\)"),
        ("", r"no class of the teacher is 'cat', 'dog', 'eel'"),
    ],
)
def test_wrong_lines_are_explained(text, message):
    with pytest.raises(UserError, match=message):
        parse_class_map(text, CLASSES, "map.txt")


def test_names_with_commas():
    assert parse_class_map('1, eel, electric\n0,"dog, hot"', ("eel, electric", "dog, hot"), "m").run_classes == (1, 0)


def test_a_class_beyond_the_head_is_explained(folder):
    class_map = parse_class_map("0,cat\n1,dog\n7,eel", CLASSES, "map.txt")
    with pytest.raises(UserError, match=r"map\.txt, line 3: the teacher has no class 7; .* has 7 classes"):
        probs((Member(spec(folder, "wide"), class_map=class_map),))


def test_a_head_of_the_wrong_size_names_both(folder):
    for name, model in (("wide", "timm:test_resnet"), ("seven", "torchvision:mobilenet_v3_small")):
        if name == "seven":
            save_weights(build(ModelSpec(model, 7)), folder / "seven.safetensors")
        wrong = ModelSpec(model, 3, weights=str(folder / f"{name}.safetensors"))
        with pytest.raises(UserError, match=r"the weights have 7 classes, the run has 3: .*teacher's class_map"):
            build(EnsembleSpec("both", 3, members=(Member(spec(folder, "a")), Member(wrong))))


def test_batch_norm_of_every_member_can_be_put_into_train_mode(folder):
    whole = build(
        EnsembleSpec("both", 3, mean=MEAN, std=STD, members=(Member(spec(folder, "a")), Member(spec(folder, "a"))))
    )
    assert not any(module.training for module in whole.modules())
    assert sum(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in whole.modules()) > 2


# the config


def setup_for(folder: Path, classes: tuple[str, ...] = CLASSES, **teacher) -> Setup:
    first = {"model": "timm:test_resnet", "weights": str(folder / "a.safetensors"), "image_size": 64, "std": STD}
    config = RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": mini.UNUSED_INPUTS,
            "student": {"model": "timm:test_resnet"},
            "teacher": {**first, **teacher},
        }
    )
    return Setup(config, classes, {})


def test_a_plain_teacher_is_what_it_was(folder):
    setup = setup_for(folder, licence="MIT", weight=2.0)
    assert type(teacher_spec(setup)) is ModelSpec
    assert set(teacher_settings(setup.config)) == {"model", "model_args", "image_size", "crop_pct", "mean", "std"}
    assert teacher_files(setup.config) == {}
    assert teacher_licence(setup.config) == "MIT"


def test_several_teachers_of_a_config(folder):
    (folder / "map.txt").write_text(MAP)
    other = {"model": "timm:test_resnet", "weights": str(folder / "wide.safetensors"), "image_size": 96, "weight": 2}
    other |= {"class_map": str(folder / "map.txt"), "licence": "CC-BY-NC-4.0"}
    setup = setup_for(folder, more=[other, {**other, "image_size": 64, "licence": None}], combine="geometric")
    whole = teacher_spec(setup)
    assert isinstance(whole, EnsembleSpec)
    assert whole.combine == "geometric"
    assert [member.weight for member in whole.members] == [1, 2, 2]
    assert [member.image_size for member in whole.members] == [None, 96, None]
    assert open_predictor(whole).probs(VIEWS).shape == (4, 3)
    places = [f"teacher.more.{i}.{name}" for i in (0, 1) for name in ("weights", "class_map")]
    assert sorted(teacher_files(setup.config)) == sorted(places)
    assert teacher_licence(setup.config) == "NOASSERTION AND CC-BY-NC-4.0"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 2.0},
        {"more": [{"model": "timm:test_resnet", "weights": "x"}]},
        {"more": [{"model": "timm:test_resnet", "weights": "x", "weight": 2}]},
        {"more": [{"model": "timm:test_resnet", "weights": "x"}], "weight": 2},
        {"more": [{"model": "timm:test_resnet", "weights": "x"}], "combine": "geometric"},
        {"more": [{"model": "timm:test_resnet", "weights": "x", "image_size": 96}]},
    ],
)
def test_what_changes_a_label_changes_the_settings(folder, change):
    reference = [
        teacher_settings(setup_for(folder, **c).config)
        for c in ({}, {"more": [{"model": "timm:test_resnet", "weights": "x", "temperature": 2}]})
    ]
    assert teacher_settings(setup_for(folder, **change).config) not in reference


def test_fit_is_of_one_network(folder):
    with pytest.raises(ValueError, match="fit and more exclude each other"):
        setup_for(folder, fit={}, more=[{"model": "timm:test_resnet", "weights": "x"}])
    with pytest.raises(ValueError, match="fit and class_map exclude each other"):
        setup_for(folder, fit={}, class_map="map.txt")


def test_a_missing_class_map_is_a_users_mistake(folder):
    with pytest.raises(UserError, match=r"teacher\.class_map: .*gone\.txt cannot be read"):
        teacher_spec(setup_for(folder, class_map=str(folder / "gone.txt")))
