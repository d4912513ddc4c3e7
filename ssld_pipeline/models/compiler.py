"""torch.compile, and what it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssld_pipeline.errors import UserError


def require_compiler(setting: str, who: str) -> None:
    """UserError where there is no C++ compiler; ``setting`` asks for it, ``who`` is what runs on such machines."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")):
        raise UserError(
            f"{setting} needs a C++ compiler on every machine that {who}, and none is found (c++, g++, "
            f"clang++, or the one that CXX names). Install one, or leave {setting} out"
        )


def compiled(module: nn.Module) -> Callable[..., Any]:
    """``module`` compiled for training, with its own tensors. Dropout draws as in the plain one. UserError without a
    compiler."""
    require_compiler("placement.train_compile", "trains")
    return torch.compile(module, dynamic=False, options={"fallback_random": True})
