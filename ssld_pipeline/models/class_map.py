"""Which class of the run each class of a teacher's head is, where the two lists differ: a file that a person wrote.

One line per class of the teacher that counts, `number of the teacher's class, name of the run's class`. Several classes
of the teacher may be one class of the run: their probabilities add up. Those without a line are dropped, and the rest
is made to sum to 1 again. Empty lines, and lines that begin with #, say nothing.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from ssld_pipeline.errors import UserError


@dataclass(frozen=True)
class ClassMap:
    """Of each entry the class of the teacher's head, the run's class, and the line of ``source`` that says so."""

    source: str
    teacher_classes: tuple[int, ...]
    run_classes: tuple[int, ...]
    lines: tuple[int, ...]

    def require_head(self, num_classes: int) -> None:
        """UserError where a class is beyond a head of ``num_classes``."""
        for number, line in zip(self.teacher_classes, self.lines, strict=True):
            if number >= num_classes:
                raise UserError(
                    f"{self.source}, line {line}: the teacher has no class {number}; the head of its weights has "
                    f"{num_classes} classes, counted from 0"
                )


def parse_class_map(text: str, classes: Sequence[str], source: str) -> ClassMap:
    """The map in ``text`` to the run's ``classes``; ``source`` names it in messages.

    UserError, with the line, for what is no such line, a class of the teacher that stands twice, an unknown name; and
    for classes of the run that no line leads to.
    """
    ids = {normalize("NFC", name): number for number, name in enumerate(classes)}
    found: dict[int, tuple[int, int]] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        number, name = _entry(content.strip(), f"{source}, line {line}")
        if number in found:
            raise UserError(
                f"{source}, line {line}: class {number} of the teacher stands in line {found[number][1]} too"
            )
        if normalize("NFC", name) not in ids:
            near = ", ".join(map(repr, difflib.get_close_matches(name, classes, n=3) or classes[:3]))
            raise UserError(
                f"{source}, line {line}: the run has no class {name!r}; there are {len(classes)}, such as {near}"
            )
        found[number] = ids[normalize("NFC", name)], line
    _require_all(set(classes) - {classes[run_class] for run_class, _ in found.values()}, classes, source)
    numbers = sorted(found)
    return ClassMap(source, tuple(numbers), *zip(*(found[n] for n in numbers), strict=True))


def _entry(content: str, place: str) -> tuple[int, str]:
    number, separator, name = (part.strip() for part in content.partition(","))
    if name.startswith('"'):
        name = next(csv.reader([name]))[0]
    if not separator or not (number.isascii() and number.isdecimal()) or not name:
        raise UserError(
            f"{place}: expected `number of the teacher's class, name of the run's class`, such as "
            f"`207, golden retriever`; got {content!r}"
        )
    return int(number), name


def _require_all(missing: Iterable[str], classes: Sequence[str], source: str) -> None:
    unreached = [name for name in classes if name in set(missing)]
    if unreached:
        raise UserError(
            f"{source}: no class of the teacher is {', '.join(map(repr, unreached[:5]))}"
            f"{' and others' if len(unreached) > 5 else ''} ({len(unreached)} of the run's {len(classes)} classes); "
            f"its labels would never name them. Add lines, or take the classes out of the class list"
        )
