"""All strategies by name. To add one, write a module in this package and add a line here."""

from __future__ import annotations

import difflib

from ssld_pipeline.errors import UserError
from ssld_pipeline.training.strategies.distil import Distil
from ssld_pipeline.training.strategies.strategy import Open

STRATEGIES: dict[str, Open] = {
    "distil": Distil,
}


def strategy_named(name: str) -> Open:
    """UserError for a name that is none, with the nearest one."""
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(STRATEGIES)}"
        raise UserError(f"no strategy is called {name!r}; {hint}")
    return STRATEGIES[name]
