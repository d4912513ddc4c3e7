"""A network's tensors in and out of files. Nothing here executes what a file holds."""

from __future__ import annotations

import argparse
import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.classifier import classifier_keys
from ssld_pipeline.models.spec import Head

# The averaged weights come first: whoever kept both published figures of the average.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
# What DistributedDataParallel, torch.compile, and a module that calls its network "model" put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGING_STEPS = "n_averaged"  # of torch's AveragedModel, beside the network's tensors

# What the two readers raise on bytes that are no weights; torch's unpickler does not check its own stack.
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    struct.error,
)


def load_weights(model: nn.Module, path: str | Path, head: Head = "keep") -> None:
    """Fills ``model`` from a safetensors file or a torch checkpoint; float16 and bfloat16 tensors become float32.

    ``head``: new leaves the file's classifier out and the model's starts at zero, since the gradient of a random one
    tears at the features (BiT, arXiv:1912.11370, does so too; MobileNetV2 on ten classes of clothing, 6 epochs: top-1
    0.66 with a random head); auto does so where the file's has another number of classes. Every other tensor must have
    its place and its shape; only batch norm's ``num_batches_tracked`` may be missing. UserError otherwise, without
    having changed the model.
    """
    tensors = read_tensors(path)
    classifier, own = classifier_keys(model), model.state_dict()
    if head == "auto":
        fits = all(key in tensors and tensors[key].shape == own[key].shape for key in classifier)
        head = "keep" if fits else "new"
    if head == "new":
        tensors = {key: tensor for key, tensor in tensors.items() if key not in classifier}
    optional = {key for key in own if key.endswith("num_batches_tracked")} | (classifier if head == "new" else set())
    _check_fit(path, tensors, own, optional, classifier)
    model.load_state_dict({key: _plain(tensor) for key, tensor in tensors.items()}, strict=False)
    if head == "new":
        for key in classifier:
            own[key].zero_()


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Writes the model's tensors, buffers such as batch norm's statistics included, to a safetensors file.

    Tensors that share memory are stored once; `load_weights` finds the other names in the model.
    """
    save_model(model, str(path))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a torch checkpoint, by name, without what was wrapped around them.

    UserError where the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # an 8-byte length, then a JSON header
        content = load_file(path) if is_safetensors else _load_checkpoint(path)
    except OSError as error:
        raise UserError(f"weights {path} cannot be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise UserError(
            f"weights {path} are neither a whole safetensors file nor a checkpoint of tensors and plain values alone, "
            f"which is all that is read, for safety: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None
    return _unwrap(path, content)


def _load_checkpoint(path: Path) -> Any:
    # timm's checkpoints carry the training script's arguments: a record of plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def head_size(model: nn.Module, path: str | Path) -> int:
    """Classes of the classifier in the file; of ``model``, a network of the same architecture, where it has none."""
    tensors, own = read_tensors(path), model.state_dict()
    keys = sorted(classifier_keys(model))
    return next((len(tensors[key]) for key in keys if key in tensors and tensors[key].ndim), len(own[keys[0]]))


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and (inner := _wrapped(content)) is not None:
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"weights {path}: expected tensors by name, or them under one of {', '.join(_WRAPPERS)}; "
            f"got {_describe(content)}"
        )
    tensors = {str(key): tensor for key, tensor in content.items()}
    while prefix := _common_prefix(tensors):
        tensors = {key.removeprefix(prefix): t for key, t in tensors.items() if key != _AVERAGING_STEPS}
    return tensors


def _wrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    return next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)


def _common_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    keys = [key for key in tensors if key != _AVERAGING_STEPS]
    return next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), None)


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {_first(map(str, content))}" if content else "an empty mapping"
    return f"a {type(content).__name__}"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_fit(
    path: str | Path, tensors: dict[str, Tensor], own: dict[str, Tensor], optional: set[str], classifier: set[str]
) -> None:
    # Names that share one tensor: the file holds one of them.
    stored = {own[key].data_ptr() for key in tensors if key in own and own[key].numel()}
    missing = [k for k in own if k not in tensors and k not in optional and own[k].data_ptr() not in stored]
    unexpected = [key for key in tensors if key not in own]
    reshaped = [key for key in tensors if key in own and tensors[key].shape != own[key].shape]
    if not (missing or unexpected or reshaped):
        return
    lines = [f"weights {path} do not fit the model:"]
    lines += [
        f"  {len(keys)} tensors {what}: {_first(keys)}"
        for keys, what in ((missing, "of the model are missing"), (unexpected, "have no place in the model"))
        if keys
    ]
    lines += [
        f"  {key}: the file has {tuple(tensors[key].shape)}, the model {tuple(own[key].shape)}" for key in reshaped[:3]
    ]
    other_head = next((key for key in reshaped if key in classifier), None)
    if other_head:
        lines.append(
            f"  the weights have {len(tensors[other_head])} classes, the run has {len(own[other_head])}: "
            f"add teacher.fit to finetune them to the run's classes or, where these are among those of the weights, "
            f"name a file that says which is which in the teacher's class_map; of a training that starts from them, "
            f"set head: new"
        )
    raise UserError("\n".join(lines))


def _first(keys: Iterable[str], count: int = 4) -> str:
    keys = list(keys)
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
