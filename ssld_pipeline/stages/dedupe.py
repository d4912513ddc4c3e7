"""Decides which pool images are kept out, on the evidence of ``pairs``: no pixel is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ssld_pipeline.settings import Settings
from ssld_pipeline.stages.stage import Json, QueryStage

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config import RunConfig

DECISION_FIELDS = ("min_inliers", "min_score", "min_perceptual_score", "min_blocks")
CHECK_FIELDS = ("canaries", "min_canary_recall")


class DedupeConfig(Settings):
    against: tuple[str, ...] = ("protected",)
    """Roles or input names whose copies are removed from the pool."""
    image_side: int = Field(320, ge=64)
    """Longer side at which images are searched for key points, pixels."""
    protected_keypoints: int = Field(400, gt=0)
    """Most key points kept per protected image, over two scales."""
    pool_keypoints: int = Field(200, gt=0)
    """Most key points looked up per pool image."""
    stop_recurrence: int = Field(8, gt=1)
    """A key point that recurs in this many other protected images (a site's watermark) does not vote."""
    num_probes: int = Field(4, gt=0)
    """Lists of the FAISS index visited per key point."""
    num_neighbours: int = Field(4, gt=0)
    """Nearest protected key points that one pool key point votes for."""
    min_votes: int = Field(3, gt=0)
    """Key points of the pool image that must vote for a protected image before the pair is looked at."""
    num_candidates: int = Field(5, gt=0)
    """Most protected images looked at per pool image, by votes; and again by whole-picture likeness."""
    max_match_distance: float = Field(300, gt=0)
    """Largest Euclidean distance of two matched descriptors, whose norm is about 512."""
    min_inliers: int = Field(6, ge=4)
    """Matches at distinct positions that must agree on one transform."""
    max_hash_distance: int = Field(10, ge=0, le=64)
    """Perceptual hashes that differ in at most this many of 64 bits propose a pair."""
    min_thumbnail_correlation: float = Field(0.94, gt=0, le=1)
    """16x16 thumbnails at least this correlated propose a pair."""
    min_score: float = Field(0.5, gt=0, le=1)
    """Share of pixel blocks that must agree for a pair to be a copy."""
    min_perceptual_score: float = Field(0.8, gt=0, le=1)
    """The same for a pair that no key points support."""
    min_blocks: int = Field(6, gt=0, le=64)
    """Pixel blocks, of the protected image's 64, that must be comparable."""
    canaries: int = Field(200, ge=0)
    """Altered copies of protected images that are made and looked for before the pool is read; 0: none."""
    min_canary_recall: float = Field(0.95, ge=0, le=1)
    """Share of them, of all moderate kinds together and of each, that must be found; chance is allowed for."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""


def is_copy(config: DedupeConfig) -> str:
    """SQL over the columns of ``pairs``: does the evidence suffice?"""
    return f"""(method = 'exact' OR num_blocks >= {config.min_blocks} AND CASE method
        WHEN 'sift' THEN num_inliers >= {config.min_inliers} AND score >= {config.min_score}
        ELSE score >= {config.min_perceptual_score} END)"""


def decide(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """``duplicates`` rows from the view ``pairs``."""
    return tables.sql(f"""
        SELECT * EXCLUDE (part), {is_copy(config.dedupe)} AS is_duplicate
        FROM pairs ORDER BY image_id, score DESC, protected_id
    """).to_arrow_table()


def _settings(config: RunConfig) -> dict[str, Json]:
    return config.dedupe.model_dump(mode="json", include=set(DECISION_FIELDS))


STAGE = QueryStage(name="dedupe", version=2, table="duplicates", reads=("pairs",), settings=_settings, query=decide)
