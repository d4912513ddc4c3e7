"""Cuts a long list of files into slices such that one file more or less changes one slice."""

from __future__ import annotations

from collections.abc import Sequence

from ssld_pipeline.kernels.digests import hash64

_HASH_BITS = 64


def slices(keys: Sequence[str], limit: int) -> dict[int, list[int]]:
    """Slice number -> positions of its keys, ascending; no slice has more than ``limit``, none is empty.

    A binary trie over the bits of each key's hash: a full slice k is divided in two, 2k+1 and 2k+2, as in extendible
    hashing. Cutting the sorted list every ``limit`` files would instead move every file behind an insertion.
    """
    hashes = [hash64(key) for key in keys] if len(keys) > limit else [0] * len(keys)
    result: dict[int, list[int]] = {}
    pending = [(0, _HASH_BITS - 1, list(range(len(keys))))]
    while pending:
        number, bit, positions = pending.pop()
        if len(positions) > limit and bit >= 0:
            pending.append((2 * number + 1, bit - 1, [p for p in positions if not hashes[p] >> bit & 1]))
            pending.append((2 * number + 2, bit - 1, [p for p in positions if hashes[p] >> bit & 1]))
        elif positions:
            result[number] = positions
    return dict(sorted(result.items()))
