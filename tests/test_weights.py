"""Weights in the shapes in which trainers leave them, for networks of both libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import head_size

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def prefixed(prefix: str, state: dict) -> dict:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


WRAPPINGS = {
    "bare": lambda state: state,
    "a wrapper in a wrapper": lambda state: {"model": {"state_dict": state}, "epoch": 1},
    "state_dict, module.": lambda state: {"state_dict": prefixed("module.", state)},
    "torch.compile": lambda state: {"model": prefixed("_orig_mod.", state)},
    "compiled, then distributed": lambda state: prefixed("module._orig_mod.", state),
    "distributed, then compiled": lambda state: {"state_dict": prefixed("_orig_mod.module.", state)},
    "Lightning": lambda state: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 0.1}},
    "torch's AveragedModel": lambda state: {
        "model": {key: tensor * 0 for key, tensor in state.items()},
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", state)},
    },
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_wrappers_are_taken_off(name, wrapping, tmp_path):
    model = build(ModelSpec(name, 7))
    torch.save(WRAPPINGS[wrapping](model.state_dict()), tmp_path / "w.pt")
    spec = ModelSpec(name, 7, weights=str(tmp_path / "w.pt"))
    assert torch.equal(build(spec)(IMAGE), model(IMAGE))
    assert head_size(build(ModelSpec(name, 3)), tmp_path / "w.pt") == 7


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "torchvision:squeezenet1_1"])
def test_a_head_of_another_size_names_both(name, tmp_path):
    size = {"img_size": 160} if name == "timm:test_vit" else {}
    save_file(
        {k: v.contiguous() for k, v in build(ModelSpec(name, 7, size)).state_dict().items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(UserError, match=r"the weights have 7 classes, the run has 10: add teacher\.fit.*class_map"):
        build(ModelSpec(name, 10, size, weights=str(tmp_path / "w.safetensors")))


def test_a_prefix_that_only_some_tensors_have_is_a_name(tmp_path: Path):
    state = build(ModelSpec("timm:test_resnet", 7)).state_dict()
    torch.save({"module.extra": torch.zeros(1), **state}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"no place in the model: module\.extra"):
        build(ModelSpec("timm:test_resnet", 7, weights=str(tmp_path / "w.pt")))
