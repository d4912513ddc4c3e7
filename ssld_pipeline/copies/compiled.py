"""Loops over pixels, compiled to machine code at their first call on a machine (numba), then loaded from its cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Releases the GIL; may reorder float operations, so results may differ in the last bits between machines."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))
