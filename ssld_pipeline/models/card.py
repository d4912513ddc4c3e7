"""A model folder's ``config.json``: what timm, and a person, need to use the weights beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ssld_pipeline.models.classifier import classifier_modules
from ssld_pipeline.models.spec import ModelSpec


def config_json(
    spec: ModelSpec,
    model: nn.Module,
    *,
    image_size: int,
    crop_pct: float,
    class_names: Sequence[str],
    licence: str | None = None,
) -> dict[str, Any]:
    """What ``timm.create_model("local-dir:<folder>", pretrained=True)`` reads; ``model`` is ``spec`` built.

    ``licence`` is that of the teacher the model was made with, as an SPDX name. For torchvision's networks and
    our own ``library`` says that timm cannot build them; the rest holds.
    """
    library, _, architecture = spec.model.partition(":")
    classifier = classifier_modules(model)
    return {
        "library": library,
        "architecture": architecture.partition(".")[0],
        "num_classes": spec.num_classes,
        "num_features": _num_features(model, classifier[0]),
        "model_args": dict(spec.model_args),
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [3, image_size, image_size],
            "fixed_input_size": bool(getattr(model, "default_cfg", {}).get("fixed_input_size", False)),
            "interpolation": "bilinear",
            "crop_pct": crop_pct,
            "crop_mode": "center",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": spec.num_classes,
            "first_conv": _first_conv(model),
            "classifier": classifier[0] if len(classifier) == 1 else list(classifier),
            "license": licence,
        },
    }


def _num_features(model: nn.Module, classifier: str) -> int:
    size: int = getattr(model, "num_features", getattr(model.get_submodule(classifier), "in_features", 0))
    return size


def _first_conv(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)
