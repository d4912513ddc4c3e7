"""A network that learns: its module, its optimiser, its schedule, and all of its state as tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.models.build import build
from ssld_pipeline.models.classifier import classifier_keys
from ssld_pipeline.models.compiler import compiled
from ssld_pipeline.models.preprocessing import Normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.augmentation import dropout_seed
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.gradients import GradientSum
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.norm_batches import batch_norms, draws_at_random, split_norm_batches, track_running_stats
from ssld_pipeline.training.views_on_device import Views

_MODEL, _OPTIMISER = "model.", "optimiser."
_NORM = re.compile(r"Norm(Exp)?(Act)?(Fp32)?(\dd)?(Fp32)?$")  # of timm: RmsNorm, LayerNorm2dFp32, BatchNormAct2d


class TrainedNetwork:
    """``module`` is the plain network: what is evaluated, saved and exported. ``lr_of``: the rate of a step, from 0."""

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        settings: RecipeSettings,
        lr_of: Callable[[int], float],
        group: Group,
        execution: Execution,
    ) -> None:
        self.module, self.lr_of = on_device(module, group.device), lr_of
        self._seed, self._device = settings.seed, group.device
        self._amp = execution.amp and group.device != "cpu"  # without bfloat16 instructions it is many times slower
        self._normalise = Normalise(spec.mean, spec.std, settings.image_size).to(group.device)
        self._learns_whole = settings.trainable == "all"
        if not self._learns_whole:
            _freeze_all_but_classifier(module)
        self._norms = batch_norms(module) if self._learns_whole else []
        self.norm_batches_per_pass = self._most_per_pass(execution.norm_batches_per_pass, settings.image_size)
        if self.norm_batches_per_pass > 1:
            split_norm_batches(module, settings.images_per_norm)
        groups = parameter_groups(module, settings)
        self._optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=False)
        group.equalise((*module.parameters(), *module.buffers()))
        self._gradients = GradientSum(self._parameters(), group)
        self._forward = compiled(module) if execution.compile else module

    def _most_per_pass(self, wanted: int, image_size: int) -> int:
        """What is drawn at random is drawn per norm batch, so that it does not depend on how many go together."""
        if wanted == 1 or not self._learns_whole:
            return wanted
        views = torch.zeros(2, 3, image_size, image_size, device=self._device)
        return 1 if draws_at_random(self.module, views) else wanted

    @property
    def has_batch_norm(self) -> bool:
        """Whether its steps depend on which images share a batch norm statistic."""
        return bool(self._norms)

    def begin(self, step: int) -> None:
        """Forget the gradients of the step before and take the rate of this one."""
        self._optimizer.zero_grad(set_to_none=True)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = self.lr_of(step)
        if self._learns_whole:
            self.module.train()

    def logits(self, step: int, views: Views) -> Tensor:
        """``[N, classes]`` of a part of the batch of ``step``."""
        torch.manual_seed(dropout_seed(self._seed, step, views.first))
        track_running_stats(self._norms, views.first == 0)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._amp):
            logits: Tensor = self._forward(self._normalise(views.pixels))
        return logits

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a part's contribution to the loss; ``last``: of the parts of this process."""
        self._gradients.backward(loss, last)

    def update(self) -> None:
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """All that its next step depends on, on the CPU, none of them in the memory of another."""
        found = {_MODEL + name: tensor for name, tensor in self.module.state_dict().items()}
        for number, parameter in enumerate(self._parameters()):
            for name, value in self._optimizer.state[parameter].items():
                if value is not None:
                    found[f"{_OPTIMISER}{name}.{number}"] = value
        return dict(_apart(found))

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take what `tensors` gave, in a group of any size."""
        own = {name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)}
        self.module.load_state_dict(own)
        parameters = list(self._parameters())
        for key, value in tensors.items():
            if key.startswith(_OPTIMISER):
                name, _, number = key.removeprefix(_OPTIMISER).rpartition(".")
                parameter = parameters[int(number)]
                self._optimizer.state[parameter][name] = _as_state_of(parameter, value)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self._optimizer.param_groups for p in group["params"])


def new_student(
    spec: ModelSpec, settings: RecipeSettings, lr_of: Callable[[int], float], group: Group, execution: Execution
) -> TrainedNetwork:
    """The network of ``spec`` at its start, the same in every process."""
    torch.manual_seed(settings.seed)
    return TrainedNetwork(build(spec), spec, settings, lr_of, group, execution)


def on_device(model: nn.Module, device: str) -> nn.Module:
    placed: nn.Module = model.to(memory_format=torch.channels_last)
    return placed.to(device)


def parameter_groups(model: nn.Module, settings: RecipeSettings) -> list[dict[str, Any]]:
    """Trainable parameters with weight decay, and those of normalisation layers without it where they are spared.

    Biases of other layers are decayed, as in the publication, which spares its batch norm only.
    """
    norms = {id(p) for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
    spared_ids = set() if settings.weight_decay_norm else norms
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in spared_ids], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if id(p) in spared_ids], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_norm(module: nn.Module) -> bool:
    return any(_NORM.search(kind.__name__) for kind in type(module).__mro__)


def _freeze_all_but_classifier(model: nn.Module) -> None:
    """Batch norm included: the whole network stays in eval mode, and no gradient passes the classifier."""
    head = classifier_keys(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    model.eval()


def _apart(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A file of safetensors takes no two tensors of one memory, such as tied weights."""
    seen = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        yield name, own.clone() if place in seen else own
        seen.add(place)


def _as_state_of(parameter: Tensor, value: Tensor) -> Tensor:
    """In the parameter's memory format, on its device; a count, such as Adam's ``step``, stays on the CPU."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
