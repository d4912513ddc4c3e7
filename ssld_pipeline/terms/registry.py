"""All terms by name. To add one, write a module in this package and add a line here."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from ssld_pipeline.terms.decoupled_kd import DecoupledKd
from ssld_pipeline.terms.dist import Dist
from ssld_pipeline.terms.divergence import Js, Kl, ReverseKl, SoftCe, SymmetricKl
from ssld_pipeline.terms.hard_ce import HardCe
from ssld_pipeline.terms.logits_mse import LogitsMse
from ssld_pipeline.terms.term import Term

TERMS: dict[str, type[Term]] = {
    "symmetric_kl": SymmetricKl,
    "js": Js,
    "kl": Kl,
    "reverse_kl": ReverseKl,
    "soft_ce": SoftCe,
    "logits_mse": LogitsMse,
    "dist": Dist,
    "decoupled_kd": DecoupledKd,
    "hard_ce": HardCe,
}


def _term(value: Any) -> Any:
    """A term from its settings, or from its name where they are all at their defaults. ValueError for another name."""
    if isinstance(value, Term):
        return value
    settings = {"term": value} if isinstance(value, str) else value
    if not isinstance(settings, dict) or not isinstance(name := settings.get("term"), str):
        raise ValueError("expected the name of a term, or a mapping with the key 'term'")
    if name not in TERMS:
        near = difflib.get_close_matches(name, TERMS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TERMS)}"
        raise ValueError(f"no term is called {name!r}; {hint}")
    known = TERMS[name].model_fields
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{key}: unknown key; {hint}")
    return TERMS[name].model_validate(settings)


AnyTerm = Annotated[SerializeAsAny[Term], BeforeValidator(_term)]
"""A field that holds a term."""
