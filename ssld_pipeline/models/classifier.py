"""Where a network's classifier is: the tensors whose shape depends on the number of classes."""

from __future__ import annotations

from torch import nn

from ssld_pipeline.errors import UserError


def classifier_modules(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the modules that turn features into logits.

    timm's networks say it themselves (a distilled transformer has two). torchvision's do not: there it is the last
    linear or convolutional layer, as in all of its classification models.
    """
    config = getattr(model, "default_cfg", None)
    if config:
        named = config["classifier"]
        if named is None:
            raise UserError(f"timm's {config['architecture']} gives features, it has no classifier; name another model")
        return (named,) if isinstance(named, str) else tuple(named)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return (layers[-1],)


def classifier_keys(model: nn.Module) -> set[str]:
    """The keys of the classifier's tensors in ``model.state_dict()``."""
    prefixes = tuple(f"{name}." for name in classifier_modules(model))
    return {key for key in model.state_dict() if key.startswith(prefixes)}
