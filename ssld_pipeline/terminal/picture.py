"""A picture as text that a terminal shows: in a protocol of its own where it has one, else as coloured half blocks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from rich.console import Console

    from ssld_pipeline.kernels.images import Pixels

Protocol = Literal["iterm2", "kitty", "sixel", "half_blocks"]

_COLUMNS = 60
_SIDE_PX = 480
_KITTY_CHUNK = 4096
_SIXEL_COLOURS = 256
_SIXEL_TERMINALS = ("foot", "mlterm", "yaft", "contour")


def protocol(console: Console, environment: Mapping[str, str]) -> Protocol | None:
    """How to show a picture; None where standard output is no terminal with colours.

    By environment variables alone: asking the terminal would mean waiting for an answer. tmux and screen swallow the
    protocols, so there it is half blocks.
    """
    if not console.file.isatty() or console.color_system is None or console.no_color or console.is_dumb_terminal:
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return "half_blocks"
    if "KITTY_WINDOW_ID" in environment or term == "xterm-kitty" or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if "sixel" in term or term.split("-")[0] in _SIXEL_TERMINALS:
        return "sixel"
    return "half_blocks"


def show(pixels: Pixels, console: Console, how: Protocol) -> None:
    """Prints uint8 HxWx3 RGB ``pixels``, at most 60 columns wide."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    columns = min(_COLUMNS, console.width)
    if how == "half_blocks":
        from rich.text import Text

        for line in half_blocks(picture, columns):
            console.print(Text.from_ansi(line), no_wrap=True, crop=False)
        return
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    write = {"iterm2": iterm2, "kitty": kitty, "sixel": sixel}[how]
    console.file.write(write(picture) + "\n")
    console.file.flush()


def half_blocks(picture: PillowImage, columns: int) -> Iterator[str]:
    """Lines of upper half blocks: two pixels a character, 24-bit colours; as many columns, and half as many lines."""
    import numpy as np

    scale = min(columns / picture.width, columns / picture.height)
    size = max(1, round(picture.width * scale)), 2 * max(1, math.ceil(picture.height * scale / 2))
    pixels = np.asarray(picture.convert("RGB").resize(size))
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (f"\x1b[38;2;{r};{g};{b};48;2;{x};{y};{z}m▀" for (r, g, b), (x, y, z) in zip(upper, lower, strict=True))
        yield "".join(cells) + "\x1b[0m"


def iterm2(picture: PillowImage) -> str:
    """iTerm2's inline images (iterm2.com/documentation-images.html)."""
    data = _png(picture)
    return f"\x1b]1337;File=inline=1;size={len(data)}:{base64.b64encode(data).decode()}\a"


def kitty(picture: PillowImage) -> str:
    """kitty's graphics protocol: PNG, transmitted and displayed, in chunks."""
    data = base64.b64encode(_png(picture)).decode()
    chunks = [data[k : k + _KITTY_CHUNK] for k in range(0, len(data), _KITTY_CHUNK)]
    controls = ["a=T,f=100,", *[""] * (len(chunks) - 1)]
    more = [*["m=1"] * (len(chunks) - 1), "m=0"]
    return "".join(f"\x1b_G{c}{m};{chunk}\x1b\\" for c, m, chunk in zip(controls, more, chunks, strict=True))


def sixel(picture: PillowImage) -> str:
    """DEC sixels: six pixel rows a band, one colour after another over it, runs of the same sixel counted."""
    import numpy as np

    flat = picture.convert("RGB").quantize(_SIXEL_COLOURS)
    palette, colours = flat.getpalette() or [], np.asarray(flat)
    height, width = colours.shape
    colours = np.pad(colours.astype(np.int64), ((0, -height % 6), (0, 0)), constant_values=-1)
    parts = [f'\x1bPq"1;1;{width};{height}']
    for number in range(len(palette) // 3):
        parts.append(f"#{number};2;" + ";".join(str(round(v / 2.55)) for v in palette[3 * number : 3 * number + 3]))
    for band in colours.reshape(-1, 6, width):
        rows = []
        for number in np.unique(band[band >= 0]):
            bits = ((band == number) << np.arange(6)[:, None]).sum(axis=0)
            rows.append(f"#{number}" + _runs(bits.tolist()))
        parts.append("$".join(rows) + "-")
    return "".join(parts) + "\x1b\\"


def _runs(bits: list[int]) -> str:
    from itertools import groupby

    found = ((chr(63 + value), len(list(own))) for value, own in groupby(bits))
    return "".join(f"!{count}{sign}" if count > 3 else sign * count for sign, count in found)


def _png(picture: PillowImage) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
