"""What `ssld inspect` prints for a person; each function prints as soon as it knows something."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ssld_pipeline.queries import inspection
from ssld_pipeline.terminal.console import out, print_rows

if TYPE_CHECKING:
    from ssld_pipeline.queries.class_list import ClassList
    from ssld_pipeline.store.workspace import Workspace

_BAR_WIDTH = 40
_MOST_CLASSES = 40
_EACH_END = 10
_MOST_UPRIGHT = 3
_REST = "the rest"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def print_table(workspace: Workspace, name: str, classes: ClassList) -> None:
    """Facts and first rows; of ``soft_labels`` also the teacher, the classes and the entropy."""
    found = inspection.summary(workspace, name)
    counts = f"{found['rows']:,} rows, {found['parts']:,} parts, {found['bytes']:,} bytes, version {found['version']}"
    out.print(f"{name}: one row is {found['row']}; {counts}", markup=False)
    print_rows([{k: c[k] for k in ("name", "type", "unit", "meaning")} for c in found["columns"]])
    _print_upright(found["examples"][:_MOST_UPRIGHT], "first rows")
    if name == "soft_labels":
        for teacher in found["teachers"]:
            out.print(_teacher_line(teacher), markup=False)
        _print_distributions(inspection.distributions(workspace, classes), classes)


def _teacher_line(teacher: dict[str, Any]) -> str:
    origin = "fitted by fit_teacher" if teacher["fitted"] else "weights"
    kept = f"{teacher['num_kept']} classes kept"
    return (
        f"teacher: {teacher['model']} at {teacher['image_size']} px, {origin} {teacher['weights']}, {kept}; "
        f"{teacher['parts']:,} parts, {teacher['rows']:,} rows"
    )


def _print_distributions(found: dict[str, Any], classes: ClassList) -> None:
    out.print("\nimages by their most probable class", markup=False)
    _print_note(classes)
    shown, between = found["classes"], []
    if len(shown) > _MOST_CLASSES:
        between = shown[_EACH_END:-_EACH_END]
        shown = shown[:_EACH_END] + shown[-_EACH_END:]
    lines = list(bars([(row["class"], row["images"]) for row in shown]))
    if between:
        sizes = f"{between[0]['images']:,} to {between[-1]['images']:,} images each"
        lines.insert(_EACH_END, f"… {len(between):,} classes between, {sizes} …")
    out.print("\n".join(lines), markup=False)
    out.print("\nimages by entropy of the teacher's distribution, nats", markup=False)
    bins = [(f"{row['low']:.2f} to {row['high']:.2f}", row["images"]) for row in found["entropy"]]
    out.print("\n".join(bars(bins)), markup=False)


def bars(counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    """A line for each (name, count): the name, a bar as long as the count, the count."""
    width = max((len(name) for name, _ in counts), default=0)
    most = max((count for _, count in counts), default=0)
    for name, count in counts:
        yield f"{name:>{width}} {bar(count / most if most else 0):{_BAR_WIDTH}} {count:,}"


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """``share`` in [0,1] of ``width`` characters, to an eighth of one."""
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def print_class(workspace: Workspace, name: str, class_id: int, classes: ClassList) -> None:
    """Which class it is and among how many rows, then its images."""
    title = classes.name(class_id) if classes.names else f"class {class_id}"
    parts = workspace.tables[name].parts().values()
    out.print(f"{name}: {title}, among {sum(p.num_rows for p in parts):,} rows of {len(parts):,} parts", markup=False)
    _print_note(classes)
    rows = inspection.rows_of_class(workspace, name, class_id, classes)
    hidden = ("class_ids", "probs", "part") if name == "soft_labels" else ("part",)
    print_rows([{k: v for k, v in row.items() if k not in hidden} for row in rows])


def print_image(found: dict[str, list[dict[str, Any]]], image_id: str, classes: ClassList) -> None:
    """The picture or its address, the teacher's word on each view, and the other tables' rows."""
    _print_picture(found.get("catalog", []) or found.get("manifest", []), image_id)
    labels = inspection.labels_of(found.get("soft_labels", ()), classes)
    if labels:
        _print_note(classes)
    for row in found.get("soft_labels", ()):
        _print_view(row, [label for label in labels if label["view"] == row["view"]])
    for name, rows in found.items():
        if name != "soft_labels":
            (_print_upright if len(rows) <= _MOST_UPRIGHT else print_rows)(rows, name)


def _print_view(row: dict[str, Any], labels: Sequence[dict[str, Any]]) -> None:
    out.print(f"\n{_view_line(row)}", markup=False)
    width = max(len(label["class"] or _REST) for label in labels)
    for label in labels:
        line = f"{label['class'] or _REST:>{width}} {label['prob']:.4f} {bar(min(1.0, label['prob']))}"
        out.print(line, markup=False)


def _view_line(row: dict[str, Any]) -> str:
    """What the view shows of the image; columns that an earlier version did not write are passed over."""
    box = f"{row['crop_width']:.0f}x{row['crop_height']:.0f} px from ({row['crop_left']:.0f}, {row['crop_top']:.0f})"
    colours = [f", {k} x {row[k]:.2f}" for k in ("brightness", "contrast", "saturation") if row.get(k, 1) != 1]
    view = f"view {row['view']}" + (" (evaluation)" if row["view"] == 0 else "")
    return f"{view}: {box}{', mirrored' * row['flipped']}{''.join(colours)}; entropy {row['entropy']:.4f} nats"


def _print_upright(rows: Sequence[dict[str, Any]], title: str) -> None:
    """A line for each column of the table: few rows of many columns are unreadable side by side."""
    if not rows:
        print_rows(rows, title)
        return
    heads = [str(number + 1) for number in range(len(rows))] if len(rows) > 1 else ["value"]
    print_rows([{"column": k, **{h: r[k] for h, r in zip(heads, rows, strict=True)}} for k in rows[0]], title)


def _print_picture(rows: Sequence[dict[str, Any]], image_id: str) -> None:
    from ssld_pipeline.terminal.picture import protocol

    if not rows:
        return
    row = rows[0]
    how = protocol(out, os.environ)
    problem = _show(row, how) if how else ""
    where = row["uri"] if row["uri"].endswith("/" + image_id.rsplit("/", 1)[-1]) else _within(row)
    out.print(f"{image_id}: {where}" + (f" ({problem})" if problem else ""), markup=False)


def _within(row: dict[str, Any]) -> str:
    from ssld_pipeline.inputs.names import has_suffix

    if has_suffix(row["uri"], ".parquet"):
        return f"{row['uri']}, row {row['offset']}"
    return f"{row['uri']}, {row['size_bytes']:,} bytes from byte {row['offset']:,}"


def _show(row: dict[str, Any], how: Any) -> str:
    """What is wrong with the image, empty where it is shown."""
    from ssld_pipeline.errors import BadImage, UserError
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.kernels.images import decode
    from ssld_pipeline.terminal.picture import show

    try:
        image = decode(ImageReader().read(row["uri"], row["offset"], row["size_bytes"]), min_short_side=320)
    except (BadImage, UserError) as bad:
        return str(bad)
    show(image.pixels, out, how)
    return ""


def _print_note(classes: ClassList) -> None:
    if classes.note:
        out.print(classes.note, markup=False)
