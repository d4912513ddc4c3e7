"""Digests of bytes, the same on every machine."""

from __future__ import annotations

import hashlib


def digest(data: bytes) -> bytes:
    """16 bytes of BLAKE2b: equal for equal bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def hash64(text: str) -> int:
    """Of [0, 2^64), as if drawn at random, and the same for the same text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
