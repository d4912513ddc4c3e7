"""Which evidence makes a pair a copy: the only place that decides it.

The rule is SQL, so that DuckDB decides millions of pairs and other thresholds touch no pixel again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Drawn products of one outline agree to .8 with 5 to 8 inliers; few copies have so few.
_MANY_INLIERS = 12
_PER_MISSING_INLIER = 0.03
# What is drawn over a picture, text or a scribble, may take this much of its score. One logo reaches 7 inliers.
_DRAWN_OVER = 0.15
_DRAWN_OVER_INLIERS = 8
# So well explained, three inliers are enough: of others that agree to .6 with fewer than five, none was ever seen.
_EXPLAINED_ALONE = 0.8
# A small thing on flat ground fills few cells. Where nearly all of it is there, a quarter of min_blocks will do.
_FEW_BLOCKS = 1 / 4
_FEW_BLOCKS_COVERAGE = 0.5
# What fits clearly worse than the best is another image of the same garment, page or watermark: it would be misnamed.
MAX_BELOW_BEST = 0.1


@dataclass(frozen=True)
class Thresholds:
    """``min_inliers``: matches at distinct positions. ``min_score``: agreement of the pixels, in [0,1];
    ``min_perceptual_score``: the same for a pair that is alike as a whole; ``min_explained``: share of what can be seen
    of the picture that one tone curve explains. ``min_blocks``: of 256 cells, those with edges to compare.
    ``min_coverage``: share of the protected image that a copy shows."""

    min_inliers: int
    min_score: float
    min_explained: float
    min_perceptual_score: float
    min_blocks: int
    min_coverage: float


def is_copy(thresholds: Thresholds) -> str:
    """SQL over columns named as in ``Evidence``: is it enough for a copy?"""
    missing = f"greatest(0, {_MANY_INLIERS} - num_inliers)"
    explained_alone = f"coalesce(explained, 0) >= {_EXPLAINED_ALONE!r}::FLOAT"
    alike = f"score >= {thresholds.min_perceptual_score!r}::FLOAT"
    small = f"""num_blocks >= {math.ceil(_FEW_BLOCKS * thresholds.min_blocks)} AND {alike} AND {explained_alone}
        AND coverage >= {_FEW_BLOCKS_COVERAGE!r}::FLOAT"""
    shown = f"(num_blocks >= {thresholds.min_blocks} OR {small}) AND coverage >= {thresholds.min_coverage!r}::FLOAT"
    return f"""(method = 'exact' OR {shown} AND (
        (method = 'perceptual' OR {explained_alone}) AND {alike}
        OR num_inliers >= {thresholds.min_inliers}
           AND score >= ({thresholds.min_score!r} + {_PER_MISSING_INLIER} * {missing})::FLOAT
        OR num_inliers >= greatest({thresholds.min_inliers}, {_DRAWN_OVER_INLIERS})
           AND score >= {thresholds.min_score - _DRAWN_OVER!r}::FLOAT
           AND coalesce(explained, 0) >= ({thresholds.min_explained!r} + {_PER_MISSING_INLIER} * {missing})::FLOAT))"""
