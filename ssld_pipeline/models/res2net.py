"""Res2Net200_vd_26w_4s, the largest student of the publication, which neither timm nor torchvision has."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg
from timm.models.res2net import Bottle2neck
from timm.models.resnet import ResNet
from torch import nn

_NAME = "res2net200_vd_26w_4s"


def res2net200_vd_26w_4s(num_classes: int = 1000, **model_args: Any) -> nn.Module:
    """timm's Res2Net (Gao et al., arXiv:1904.01169) with 3, 12, 48 and 3 blocks of width 26 and scale 4.

    Images float32 [N, 3, S, S] to logits [N, num_classes]. As in ResNet-D, which PaddlePaddle calls vd: a stem of three
    convolutions with 32, 32 and 64 channels, and average pooling in the shortcuts. PaddleClas differs in one block: the
    first of the first stage, of stride 1, adds up its groups there; here it pools the last one, as the authors' code
    does. The tensors have the same shapes. ``model_args``: further arguments of timm's ResNet.
    """
    arguments: dict[str, Any] = {
        "block": Bottle2neck,
        "layers": (3, 12, 48, 3),
        "base_width": 26,
        "block_args": {"scale": 4},
        "stem_type": "deep",
        "stem_width": 32,
        "avg_down": True,
    }
    config = {
        "architecture": _NAME,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "first_conv": "conv1.0",
        "classifier": "fc",
    }
    model: nn.Module = build_model_with_cfg(
        ResNet, _NAME, False, pretrained_cfg=config, num_classes=num_classes, **{**arguments, **model_args}
    )
    return model
