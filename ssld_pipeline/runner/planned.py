"""The plan of a stage as a value: unit by unit what would be done, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ssld_pipeline.runner.units import Unit
from ssld_pipeline.store.part import Part

Action = Literal["run", "reuse", "remove", "move"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class UnitPlan:
    """``unit`` is None for a part to remove, and for one that upstream has yet to make. ``committed``: what is there.

    move: the input lies elsewhere now but is the same; only the ``uri`` column is written anew. ``perhaps``: it runs
    only if one of its images gets another verdict upstream, which is not known before.
    """

    name: str
    action: Action
    reasons: tuple[str, ...] = ()
    unit: Unit | None = None
    committed: tuple[Part, ...] = ()
    perhaps: bool = False


@dataclass(frozen=True)
class StagePlan:
    stage: str
    units: tuple[UnitPlan, ...] = ()
    enabled: bool = True

    def of(self, action: Action) -> list[UnitPlan]:
        return [u for u in self.units if u.action == action]

    @property
    def changes(self) -> bool:
        return any(u.action in ("run", "remove") for u in self.units)

    def reasons(self) -> list[tuple[str, int]]:
        """Why units run or go, with the number of units, most first."""
        return Counter("; ".join(u.reasons) for u in self.units if u.action in ("run", "remove")).most_common()

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "enabled": self.enabled,
            "run": len(self.of("run")),
            "reuse": len(self.of("reuse")),
            "remove": len(self.of("remove")),
            "move": len(self.of("move")),
            "parts": [{"part": u.name, "action": u.action, "reasons": list(u.reasons)} for u in self.units],
        }
