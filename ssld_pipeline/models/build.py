"""Networks by name: timm's, torchvision's and our own, with the run's classes and weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torchvision
from torch import nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.ensemble import Ensemble, MemberNetwork
from ssld_pipeline.models.res2net import res2net200_vd_26w_4s
from ssld_pipeline.models.spec import EnsembleSpec, Member, ModelSpec
from ssld_pipeline.models.weights import head_size, load_weights

# What the spec itself decides; and nothing may be downloaded behind the user's back.
_OWN_ARGUMENTS = ("num_classes", "pretrained", "pretrained_cfg", "checkpoint_path", "weights", "weights_backbone")

_OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {"res2net200_vd_26w_4s": res2net200_vd_26w_4s}


def build(spec: ModelSpec) -> nn.Module:
    """The network on the CPU in float32, in eval mode, with ``spec.weights`` loaded or at a random start.

    UserError where the name is unknown, the constructor refuses ``model_args``, or the weights do not fit.
    """
    if isinstance(spec, EnsembleSpec):
        networks = [_build_member(member, spec) for member in spec.members]
        return Ensemble(networks, [member.weight for member in spec.members], spec.combine).eval()
    model = _create(spec)
    if spec.weights is not None:
        load_weights(model, spec.weights, spec.head)
    return model.float().eval()


def classes_of_weights(model: str, model_args: dict[str, Any], weights: str) -> int:
    """Classes of the classifier in a weights file of this network."""
    return head_size(_create(ModelSpec(model, 1, dict(model_args))), weights)


def _build_member(member: Member, spec: EnsembleSpec) -> MemberNetwork:
    """With a class map its head is as large as its weights have it."""
    own = member.spec
    if member.class_map and own.weights:
        own = replace(own, num_classes=head_size(_create(own), own.weights))
        member.class_map.require_head(own.num_classes)
    return MemberNetwork(build(own), member, spec.num_classes, spec.mean, spec.std)


def _create(spec: ModelSpec) -> nn.Module:
    library, _, name = spec.model.partition(":")
    _check(spec, library, name)
    try:
        return _LIBRARIES[library](name, num_classes=spec.num_classes, **spec.model_args)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        raise UserError(f"model {spec.model!r} cannot be built with model_args {spec.model_args}: {error}") from error


def _create_timm(name: str, **arguments: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


def _create_torchvision(name: str, **arguments: Any) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def _create_own(name: str, **arguments: Any) -> nn.Module:
    return _OWN_NETWORKS[name](**arguments)


_LIBRARIES: dict[str, Callable[..., nn.Module]] = {
    "timm": _create_timm,
    "torchvision": _create_torchvision,
    "ssld": _create_own,
}


def has_model(model: str) -> bool:
    """Whether ``<library>:<name>`` names a network that can be built."""
    library, _, name = model.partition(":")
    return library in _LIBRARIES and name.partition(".")[0] in _known(library)


def _known(library: str) -> list[str]:
    """Names of all its networks that classify."""
    if library == "ssld":
        return list(_OWN_NETWORKS)
    found: list[str] = (
        timm.list_models() if library == "timm" else torchvision.models.list_models(module=torchvision.models)
    )
    return found


def _check(spec: ModelSpec, library: str, name: str) -> None:
    if library not in _LIBRARIES or not name:
        raise UserError(f"model {spec.model!r}: expected timm:<name>, torchvision:<name> or ssld:<name>")
    # "name.tag" of timm names pretrained weights; the file is given by `weights` here, so the tag says nothing.
    known, wanted = _known(library), name.partition(".")[0] if library == "timm" else name
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=3) or known[:3]
        raise UserError(f"{library} has no model called {name!r}; the nearest names: {', '.join(near)}")
    owned = [key for key in _OWN_ARGUMENTS if key in spec.model_args]
    if owned:
        raise UserError(
            f"model_args of {spec.model!r} may not set {', '.join(owned)}: the number of classes is the run's, and "
            f"weights are given by the key 'weights'"
        )
