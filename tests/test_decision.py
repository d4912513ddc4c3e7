"""The decision on copies: better evidence never makes less of a copy, and stricter thresholds never more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.copies.decision import Thresholds, is_copy
from ssld_pipeline.stages.dedupe import thresholds

PRESENT = thresholds(DedupeConfig())
GROWS = {"num_inliers": 5, "score": 0.1, "num_blocks": 20, "coverage": 0.2, "explained": 0.2}
COLUMNS = "method VARCHAR, num_inliers INTEGER, score FLOAT, num_blocks INTEGER, coverage FLOAT, explained FLOAT"


def decide(evidence: dict[str, Any], limits: Thresholds = PRESENT) -> bool:
    with duckdb.connect() as tables:
        tables.execute(f"CREATE TABLE evidence ({COLUMNS})")
        tables.execute("INSERT INTO evidence VALUES (?, ?, ?, ?, ?, ?)", [evidence[name] for name in SURE])
        ((found,),) = tables.execute(f"SELECT {is_copy(limits)} FROM evidence").fetchall()
    return bool(found)


EVIDENCE = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["sift", "perceptual"]),
        "num_inliers": st.integers(0, 40),
        "score": st.floats(0, 1, width=32),
        "num_blocks": st.integers(0, 256),
        "coverage": st.floats(0, 1, width=32),
        "explained": st.one_of(st.none(), st.floats(0, 1, width=32)),
    }
)


@given(EVIDENCE, st.sampled_from(sorted(GROWS)))
def test_better_evidence_is_no_less_a_copy(evidence: dict[str, Any], name: str) -> None:
    better = {**evidence, name: (evidence[name] or 0) + GROWS[name]}
    assert decide(better) or not decide(evidence)


@given(EVIDENCE, st.sampled_from(sorted(vars(PRESENT))), st.floats(1, 3))
def test_a_stricter_threshold_is_no_more_a_copy(evidence: dict[str, Any], name: str, factor: float) -> None:
    kind = type(getattr(PRESENT, name))
    stricter = replace(PRESENT, **{name: kind(getattr(PRESENT, name) * factor)})
    assert decide(evidence) or not decide(evidence, stricter)


SURE = {"method": "sift", "num_inliers": 30, "score": 0.9, "num_blocks": 200, "coverage": 1.0, "explained": 0.9}


@pytest.mark.parametrize("lacking", [{"score": 0.1}, {"coverage": 0.01}, {"num_blocks": 1}])
def test_no_measurement_makes_up_for_pixels_that_disagree_or_are_too_few(lacking: dict[str, Any]) -> None:
    assert decide(SURE) and not decide({**SURE, **lacking})


def test_equal_bytes_need_no_other_evidence() -> None:
    assert decide({**dict.fromkeys(SURE, 0), "method": "exact"})
