"""The kinds of copies that the demo's pools hold."""

from __future__ import annotations

# In this order the copies of a pool take turns: another one would draw other bytes from the same seed.
KINDS = (
    "exact",
    "resize",
    "thumbnail",
    "jpeg",
    "crop",
    "mirror",
    "rotate",
    "rotate90",
    "gamma",
    "brightness",
    "grey",
    "saturation",
    "blur",
    "noise",
    "text",
    "logo",
    "pad",
    "aspect",
    "combination",
)
