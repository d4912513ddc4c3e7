"""JSON objects that carry the digest of their own content, so that a changed byte is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_KEY = "sealed"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the digest of its canonical JSON as one more key, ``sealed``."""
    return {**value, _KEY: _digest(value)}


def unseal(value: Any) -> dict[str, Any]:
    """The object without its digest. Raises ValueError if it is no object, or was changed after ``seal``; an object
    without a digest passes, since older programs wrote none."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    content = {name: item for name, item in value.items() if name != _KEY}
    if _KEY in value and value[_KEY] != _digest(content):
        raise ValueError("its content is not what was written")
    return content


def _digest(value: Mapping[str, Any]) -> str:
    """Of the JSON text as it comes back from a file: keys become strings, tuples become lists."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
