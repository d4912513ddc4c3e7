"""Pictures as text: what a terminal would draw, drawn by small terminals of our own, is the picture."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ssld_pipeline.terminal import picture as terminal_picture
from ssld_pipeline.terminal.picture import protocol


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(file: io.StringIO, **more: object) -> Console:
    return Console(file=file, force_terminal=True, color_system="truecolor", width=80, **more)  # type: ignore[arg-type]


@pytest.fixture
def picture() -> Image.Image:
    """Smooth, so that scaling and few colours change little."""
    y, x = np.mgrid[0:90, 0:120]
    return Image.fromarray(np.stack([2 * x, 2 * y, 255 - x - y], axis=2).astype(np.uint8))


def scaled(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(picture.resize(size), dtype=int)


def drawn_half_blocks(lines: list[str]) -> np.ndarray:
    cell = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀")
    cells = np.array([[list(map(int, found)) for found in cell.findall(line)] for line in lines])
    return np.stack([cells[:, :, :3], cells[:, :, 3:]], axis=1).reshape(-1, cells.shape[1], 3)


def drawn_sixels(text: str) -> np.ndarray:
    """A small sixel terminal, by the manual of the VT330/340."""
    width, height = map(int, re.search(r'"1;1;(\d+);(\d+)', text).groups())  # type: ignore[union-attr]
    canvas = np.full((height + 6, width, 3), -1)
    palette: dict[int, list[float]] = {}
    body = text[text.index("\x1bPq") + 3 : text.index("\x1b\\")]
    x = top = colour = 0
    for token in re.finditer(r'"[\d;]+|#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)', body):
        if token[1]:
            palette[int(token[1])] = [int(v) * 2.55 for v in token.groups()[1:4]]
        elif token[5]:
            colour = int(token[5])
        elif token[7] or token[8]:
            count, bits = int(token[6] or 1), ord(token[7] or token[8]) - 63
            for k in range(6):
                if bits >> k & 1:
                    canvas[top + k, x : x + count] = palette[colour]
            x += count
        elif token[9]:
            x = 0
        elif token[10]:
            x, top = 0, top + 6
    return canvas[:height]


def test_half_blocks_are_the_picture(picture: Image.Image) -> None:
    drawn = drawn_half_blocks(list(terminal_picture.half_blocks(picture, 40)))
    assert drawn.shape == (30, 40, 3)
    assert np.abs(drawn - scaled(picture, (40, 30))).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (400, 3), (3, 400), (7, 13)])
def test_half_blocks_of_any_shape_stay_within_their_columns(size: tuple[int, int]) -> None:
    lines = list(terminal_picture.half_blocks(Image.new("RGB", size, (9, 8, 7)), 20))
    assert 1 <= len(lines) <= 10 and max(line.count("▀") for line in lines) <= 20
    assert (drawn_half_blocks(lines) == (9, 8, 7)).all()


def test_sixels_are_the_picture(picture: Image.Image) -> None:
    drawn = drawn_sixels(terminal_picture.sixel(picture))
    assert drawn.shape == (90, 120, 3) and drawn.min() >= 0, "every pixel is drawn"
    assert np.abs(drawn - np.asarray(picture, dtype=int)).mean() < 8, "in 256 colours"


def test_kitty_and_iterm_carry_a_png(picture: Image.Image) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", terminal_picture.kitty(noise))
    assert len(chunks) > 1 and all(len(data) <= 4096 for _, data in chunks)
    assert chunks[0][0] == "a=T,f=100,m=1" and {c for c, _ in chunks[1:-1]} == {"m=1"} and chunks[-1][0] == "m=0"
    shown = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks))))
    assert (np.asarray(shown) == np.asarray(noise)).all()
    inline = re.search(r"\x1b\]1337;File=inline=1;size=(\d+):([^\a]*)\a", terminal_picture.iterm2(picture))
    data = base64.b64decode(inline[2])  # type: ignore[index]
    assert len(data) == int(inline[1]) and (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(picture)).all()  # type: ignore[index]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-256color"}, "half_blocks"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-kitty", "TMUX": "x"}, "half_blocks"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
    ],
)
def test_the_terminal_is_known_by_its_environment(environment: dict[str, str], expected: str) -> None:
    assert protocol(console(Terminal()), environment) == expected


def test_no_picture_where_there_is_no_terminal_or_no_colour() -> None:
    assert protocol(Console(file=io.StringIO()), {"TERM": "xterm-kitty"}) is None
    assert protocol(console(Terminal(), no_color=True), {"TERM": "xterm-kitty"}) is None


def test_show_fits_a_narrow_terminal(picture: Image.Image) -> None:
    terminal = Terminal()
    narrow = Console(file=terminal, force_terminal=True, color_system="truecolor", width=20)
    terminal_picture.show(np.asarray(picture), narrow, "half_blocks")
    assert {line.count("▀") for line in terminal.getvalue().splitlines()} == {20}
