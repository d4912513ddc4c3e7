"""What counts as a copy of a protected image, and how copies are searched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssld_pipeline.config.settings import Settings, SideFiles

DECISION_FIELDS = ("min_inliers", "min_score", "min_explained", "min_perceptual_score", "min_blocks", "min_coverage")
POLICY_FIELDS = ("trained_on", "report_only", "allow", "deny")
CHECK_FIELDS = ("canaries", "min_canary_recall")
POOL_FIELDS = ("within_pool", "min_repeat_score")


class DedupeConfig(Settings):
    against: tuple[str, ...] = ("protected",)
    """Roles or input names whose copies are searched in the pool and removed from it."""
    trained_on: Literal["leave_out", "report_only", "refuse"] = "leave_out"
    """Labelled images, and images of teacher.fit.data, that copy a protected image. leave_out: no network is trained on
    them; more than 1 % of an input, and more than 10 images, stop the run. report_only: they are shown and trained on.
    refuse: one stops the run."""
    report_only: tuple[str, ...] = ()
    """Those of `against`, such as labeled, whose copies are shown but stay in the pool."""
    allow: SideFiles = ()
    """Text files of image_ids, one a line: these images are never removed."""
    deny: SideFiles = ()
    """Text files of image_ids, one a line: these images are always removed."""
    image_side: int = Field(400, ge=64)
    """Longer side at which images are searched for key points, pixels."""
    protected_keypoints: int = Field(400, gt=0)
    """Most key points kept per protected image, over two scales."""
    pool_keypoints: int = Field(250, gt=0)
    """Most key points looked up per pool image."""
    stop_recurrence: int = Field(8, gt=1)
    """A key point that recurs in this many other images of its input (a site's watermark) does not vote."""
    num_probes: int = Field(4, gt=0)
    """Lists of the FAISS index visited per key point."""
    num_neighbours: int = Field(4, gt=0)
    """Nearest protected key points that one pool key point votes for."""
    min_votes: int = Field(2, gt=0)
    """Fewest key points of the pool image that must vote for a protected image, in one arrangement, before the two are
    compared."""
    num_candidates: int = Field(5, gt=0)
    """Most protected images of an input compared per pool image, by votes; and again by whole-picture likeness."""
    max_match_distance: float = Field(300, gt=0)
    """Largest Euclidean distance of two matched descriptors, whose norm is about 512."""
    min_inliers: int = Field(5, ge=4)
    """Matches at distinct positions that must agree on one transform; below 12, more must speak for the pair."""
    max_hash_distance: int = Field(10, ge=0, le=31)
    """Perceptual hashes that differ in at most this many of 64 bits propose a pair; so do those of its negative."""
    min_thumbnail_correlation: float = Field(0.94, gt=0, le=1)
    """16x16 thumbnails at least this correlated propose a pair; so do those of its negative."""
    min_score: float = Field(0.45, gt=0, le=1)
    """Agreement of the pixels from which a pair is a copy; 0.03 more for each inlier that is missing to 12."""
    min_explained: float = Field(0.45, gt=0, le=1)
    """Share of what can be seen of the picture from which 0.15 less of min_score will do: what is drawn over it must
    leave one tone curve valid for so much of it, and 8 inliers. 0.03 more for each inlier that is missing to 12."""
    min_perceptual_score: float = Field(0.7, gt=0, le=1)
    """Agreement of the pixels from which a pair is a copy without key points: where the pictures are alike as a whole,
    or one tone curve explains 0.8 of it."""
    min_blocks: int = Field(32, gt=0, le=256)
    """Cells, of the picture's 256, that must show edges to compare; a quarter of them where the pair reaches
    min_perceptual_score, one tone curve explains 0.8 of it, and half of the protected image is shown."""
    min_coverage: float = Field(0.15, ge=0, le=1)
    """Share of the protected image that a copy must show; a logo that two pictures have in common is less."""
    within_pool: bool = False
    """Keep one of several near-identical pool images, the largest, and drop what is near-identical to a copy."""
    min_repeat_score: float = Field(0.9, gt=0, le=1)
    """Agreement of the pixels from which two pool images are near-identical."""
    canaries: int = Field(200, ge=0)
    """Number of altered copies of protected images that are made and searched before the pool is read; 0: none."""
    min_canary_recall: float = Field(0.95, ge=0, le=1)
    """Share of them, of all moderate kinds together and of each, that must be found; chance is allowed for."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""
