from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from ssld_pipeline.errors import UserError
from ssld_pipeline.models import predict
from ssld_pipeline.models.build import build
from ssld_pipeline.models.card import config_json
from ssld_pipeline.models.classifier import classifier_keys
from ssld_pipeline.models.predict import Predictor, open_predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import load_weights, save_weights

SMALL = [
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:test_vit",
    "torchvision:mobilenet_v3_small",
    "torchvision:squeezenet1_1",
]
IMAGE = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def saved(tmp_path) -> tuple[torch.nn.Module, Path]:
    model = build(ModelSpec("timm:test_resnet", 7))
    for buffer in model.buffers():  # batch norm's statistics as after training
        buffer.copy_(torch.rand_like(buffer, dtype=torch.float32) + 0.5)
    save_weights(model, tmp_path / "weights.safetensors")
    return model, tmp_path / "weights.safetensors"


def loaded(path: Path, **spec) -> torch.nn.Module:
    return build(ModelSpec("timm:test_resnet", spec.pop("num_classes", 7), weights=str(path), **spec))


@pytest.mark.parametrize("name", SMALL)
def test_builds_saves_and_loads(name, tmp_path):
    model = build(ModelSpec(name, 7))
    assert not model.training
    assert model(IMAGE).shape == (1, 7)
    save_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(build(ModelSpec(name, 7, weights=str(tmp_path / "w.safetensors")))(IMAGE), model(IMAGE))


@pytest.mark.parametrize("name", SMALL)
def test_new_head_replaces_the_classifier_alone(name, tmp_path):
    model = build(ModelSpec(name, 7))
    save_weights(model, tmp_path / "w.safetensors")
    fresh = build(ModelSpec(name, 5, weights=str(tmp_path / "w.safetensors"), head="new"))
    assert fresh(IMAGE).shape == (1, 5)
    head = classifier_keys(fresh)
    assert 1 <= len(head) <= 2
    for key, tensor in fresh.state_dict().items():
        assert key in head or torch.equal(tensor, model.state_dict()[key])


@pytest.mark.parametrize(("num_classes", "is_kept"), [(7, True), (5, False)])
def test_a_head_is_kept_by_itself_where_it_has_the_classes_of_the_run(tmp_path, num_classes, is_kept):
    model = build(ModelSpec("timm:test_resnet", 7))
    save_weights(model, tmp_path / "w.safetensors")
    found = build(ModelSpec("timm:test_resnet", num_classes, weights=str(tmp_path / "w.safetensors"), head="auto"))
    assert torch.equal(found(IMAGE), model(IMAGE)) if is_kept else not found(IMAGE).any()


def test_a_new_head_starts_with_all_classes_alike(saved):
    _, path = saved
    assert not loaded(path, head="new")(IMAGE).any(), "no gradient of a random head tears at the features"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("timm:test_resnett", 7), "no model called 'test_resnett'; the nearest names: test_resnet"),
        (ModelSpec("torchvision:resnet5", 7), "resnet50"),
        (ModelSpec("resnet50", 7), "expected timm:<name>, torchvision:<name> or ssld:<name>"),
        (ModelSpec("keras:resnet50", 7), "expected timm:<name>"),
        (ModelSpec("ssld:res2net200", 7), "no model called 'res2net200'; the nearest names: res2net200_vd_26w_4s"),
        (ModelSpec("ssld:res2net200_vd_26w_4s", 7, {"depth": 3}), "depth"),
        (ModelSpec("timm:test_resnet", 7, {"depth": 3}), "model_args {'depth': 3}"),
        (ModelSpec("torchvision:resnet18", 7, {"depth": 3}), "depth"),
        (ModelSpec("timm:test_resnet", 7, {"pretrained": True}), "may not set pretrained"),
        (ModelSpec("timm:test_resnet", 7, {"num_classes": 9}), "may not set num_classes"),
        (ModelSpec("torchvision:resnet18", 7, {"weights": "DEFAULT"}), "may not set weights"),
    ],
)
def test_what_cannot_be_built_is_explained(spec, message):
    with pytest.raises(UserError) as caught:
        build(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}, "optimizer": {"lr": [0.1]}},
        lambda state: {"state_dict_ema": state, "state_dict": {key: tensor * 0 for key, tensor in state.items()}},
        lambda state: {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["bare", "state_dict", "model, module.", "average first", "no num_batches_tracked"],
)
def test_torch_checkpoints(saved, tmp_path, wrap):
    model, _ = saved
    torch.save(wrap(model.state_dict()), tmp_path / "checkpoint.pth")
    assert torch.equal(loaded(tmp_path / "checkpoint.pth")(IMAGE), model(IMAGE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_float32(saved, tmp_path, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in saved[0].state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    model = loaded(tmp_path / "half.safetensors")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype != dtype
        assert torch.equal(tensor, state[key].to(tensor.dtype))


def test_batch_norm_statistics_are_saved(saved):
    stored = load_file(saved[1])
    assert {k for k in saved[0].state_dict() if "running" in k} <= set(stored)


def change(path: Path, **changes) -> None:
    state = load_file(path)
    for key, tensor in changes.items():
        state.pop(key.replace("__", "."), None)
        if tensor is not None:
            state[key.replace("__", ".")] = tensor
    save_file(state, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc__bias": None}, "1 tensors of the model are missing: fc.bias"),
        ({"bn1__running_var": None}, "missing: bn1.running_var"),
        ({"extra__bias": torch.zeros(2)}, "1 tensors have no place in the model: extra.bias"),
        ({"bn1__bias": torch.zeros(3)}, "bn1.bias: the file has (3,), the model (32,)"),
    ],
)
def test_every_tensor_must_fit(saved, changes, message):
    path = saved[1]
    change(path, **changes)
    target = build(ModelSpec("timm:test_resnet", 7))
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(target, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "teacher.fit" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in target.state_dict().items())


def test_another_number_of_classes_says_what_to_do(saved):
    with pytest.raises(UserError, match=r"the weights have 7 classes, the run has 10: add teacher\.fit"):
        loaded(saved[1], num_classes=10)


class Payload:
    """Unpickling one creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_executes_nothing(tmp_path):
    torch.save({"state_dict": {}, "payload": Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="for safety"):
        loaded(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut off", b"\x08\0\0\0\0\0\0\0{broken", b"not weights at all", b"\x80\x02."]
)
def test_damaged_files_are_explained(tmp_path, content):
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.bin"):
        loaded(tmp_path / "w.bin")


def test_cut_safetensors_are_explained(saved):
    saved[1].write_bytes(saved[1].read_bytes()[:5000])
    with pytest.raises(UserError, match="neither a whole safetensors file"):
        loaded(saved[1])


def test_missing_files_and_checkpoints_without_tensors(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pth cannot be read: No such file"):
        loaded(tmp_path / "gone.pth")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="got a mapping with the keys epoch, lr"):
        loaded(tmp_path / "empty.pth")


def test_tied_tensors_survive(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 4)
            self.second = torch.nn.Linear(4, 4)
            self.second.weight = self.first.weight

    model, other = Tied(), Tied()
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.second.weight, model.second.weight)
    assert other.second.weight is other.first.weight


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"])
def test_timm_loads_a_model_folder(name, tmp_path):
    spec = ModelSpec(name, 3, {"drop_rate": 0.1}, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    model = build(spec)
    save_weights(model, tmp_path / "student.safetensors")
    config = config_json(spec, model, image_size=160, crop_pct=0.9, class_names=["cat", "dog", "eel"], licence="MIT")
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(theirs(IMAGE), model(IMAGE))
    assert theirs.pretrained_cfg["label_names"] == ["cat", "dog", "eel"]
    assert theirs.num_features == config["num_features"]
    data = timm.data.resolve_model_data_config(theirs)
    assert (data["mean"], data["std"], data["crop_pct"], data["input_size"][1:]) == (
        [0.5, 0.4, 0.3],
        [0.2, 0.2, 0.2],
        0.9,
        [160, 160],
    )
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=11)  # finetuning keeps the rest
    assert again.eval()(IMAGE).shape == (1, 11)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_normalise(layout):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    batch = torch.from_numpy(pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2).copy())
    result = normalise(batch, mean, std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(2, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4, 1, dtype=torch.uint8)],
)
def test_normalise_refuses_what_is_no_batch_of_pixels(batch):
    with pytest.raises(ValueError, match="expected uint8"):
        normalise(batch, (0, 0, 0), (1, 1, 1))


def test_predictor_splits_and_halves_when_memory_runs_out(saved, monkeypatch):
    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])))
    views = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3), dtype=np.uint8)
    expected = predictor.probs(views)
    assert expected.shape == (21, 7)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-12)

    forward = Predictor._forward

    def out_of_memory_above_5(self, chunk, batch_size):
        if batch_size > 5:
            raise torch.OutOfMemoryError
        return forward(self, chunk, batch_size)

    monkeypatch.setattr(Predictor, "_forward", out_of_memory_above_5)
    np.testing.assert_allclose(predictor.probs(views), expected, atol=1e-6)
    assert predictor.batch_size == 4
    assert predictor.probs(views[:0]).shape == (0, 7)


def test_a_device_that_holds_not_one_image_is_a_users_mistake(saved, monkeypatch):
    def out_of_memory(self, chunk, batch_size):
        raise torch.OutOfMemoryError

    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])))
    monkeypatch.setattr(Predictor, "_forward", out_of_memory)
    with pytest.raises(UserError, match="not even one image of 64 px"):
        predictor.probs(np.zeros((3, 64, 64, 3), np.uint8))


def test_res2net200_has_the_published_size_and_is_exported_like_any_network(tmp_path):
    """76.2 million parameters with 1,000 classes."""
    spec = ModelSpec("ssld:res2net200_vd_26w_4s", 1000)
    model = build(spec)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 76.2
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(images)
    assert logits.shape == (2, 1000) and torch.isfinite(logits).all()
    assert classifier_keys(model) == {"fc.weight", "fc.bias"}
    card = config_json(spec, model, image_size=64, crop_pct=0.875, class_names=["a"] * 1000)
    assert (card["library"], card["architecture"]) == ("ssld", "res2net200_vd_26w_4s")
    assert (card["pretrained_cfg"]["first_conv"], card["num_features"]) == ("conv1.0", 2048)
    save_weights(model, tmp_path / "w.safetensors")
    fewer = build(replace(spec, num_classes=5, weights=str(tmp_path / "w.safetensors"), head="new"))
    assert torch.equal(fewer.layer3[47].convs[2].weight, model.layer3[47].convs[2].weight)
    assert fewer.fc.weight.shape == (5, 2048)
    assert json.loads(json.dumps(card)) == card


def test_a_network_of_features_alone_has_no_classifier():
    model = torch.nn.Linear(2, 2)
    model.default_cfg = {"architecture": "some_encoder", "classifier": None}
    with pytest.raises(UserError, match="some_encoder gives features"):
        classifier_keys(model)


def test_predictor_has_dropout_and_batch_norm_at_rest(saved):
    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, {"drop_rate": 0.5}, weights=str(saved[1])))
    views = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    together = predictor.probs(views)
    alone = np.concatenate([predictor.probs(views[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_batches_come_back_in_order_with_their_tags(saved, monkeypatch):
    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])), batch_size=3)
    views = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    batches = [(start, views[start : start + 4]) for start in range(0, 10, 4)]
    expected = [(start, predictor.probs(batch)) for start, batch in batches]
    monkeypatch.setitem(predict._IN_FLIGHT, "cpu", 1)  # as on a GPU: the next is begun before the last is fetched
    for (tag, found), (start, probs) in zip(predictor.stream(iter(batches)), expected, strict=True):
        assert tag == start
        np.testing.assert_array_equal(found, probs)


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({64: 100, 128: 190, 256: 300, 512: 303, 1024: 999}, 256),  # no further than where it stops to pay
        ({64: 100, 128: 190, 256: 0, 512: 999}, 128),  # 0: out of memory
        ({64: 0, 128: 0}, 64),  # and _launch halves it from there
    ],
)
def test_the_batch_size_is_the_smallest_that_keeps_a_gpu_busy(saved, monkeypatch, rates, chosen):
    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])))
    monkeypatch.setattr(Predictor, "_rate", lambda self, batch_size, image_size: rates[batch_size])
    predictor.device = "cuda"
    predictor.tune(64)
    assert predictor.batch_size == chosen


@pytest.mark.parametrize(("image_size", "chosen"), [(384, 16), (224, 16), (112, 64), (32, 256)])
def test_a_cpu_sees_as_many_pixels_at_once_whatever_their_size(saved, image_size, chosen):
    predictor = open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])))
    predictor.tune(image_size)
    assert predictor.batch_size == chosen


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_says_the_same(saved):
    spec = ModelSpec("timm:test_resnet", 7, weights=str(saved[1]))
    views = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    compiled = open_predictor(spec, compile=True, batch_size=4)  # the last batch is filled up
    np.testing.assert_allclose(compiled.probs(views), open_predictor(spec).probs(views), atol=1e-5)


def test_compiling_without_a_compiler_is_a_mistake(saved, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C"):
        open_predictor(ModelSpec("timm:test_resnet", 7, weights=str(saved[1])), compile=True)
