from __future__ import annotations
from ssld_pipeline.settings import Settings


class DedupeConfig(Settings):
    against: tuple[str, ...] = ("protected",)
    """Roles or input names whose copies are removed from the pool."""
