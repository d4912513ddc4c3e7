"""What a stored soft label costs, and what it loses: bytes per view, and the loss and its gradient beside dense labels.

    python benchmarks/soft_label_size.py --images FOLDER --weights TEACHER.safetensors [--num-images 1000] [--write]

FOLDER holds JPEG photographs; TEACHER is an ImageNet-1k MobileNetV2 for timm's mobilenetv2_100 with pad_type same, mean
and std 0.5. Of each photograph the evaluation view and two augmented ones are labelled. They are written as Parquet
parts by the table's own writer, all columns included, and read back; the loss of a student against what training makes
of them is compared with its loss against the teacher's float32 distribution over all classes. The student is the same
network given the same views at half the resolution. A second table has the same teacher with its logits divided by
TEMPERATURE, so that it is as sure as one that was trained on the images; and, beside what is stored, tails as older
programs stored them, 1 minus the sum of the rounded probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from results import table, write_section

from ssld_pipeline.contracts import SOFT_LABELS
from ssld_pipeline.kernels import soft_label
from ssld_pipeline.kernels.divergences import objective
from ssld_pipeline.models.predict import open_predictor
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.stored_labels import SoftLabel, logits_of
from ssld_pipeline.training.views import REPLAY_COLUMNS, Replay, SourceImage

NUM_CLASSES, SIZE_PX, CROP_PCT = 1000, 224, 0.875
NUM_VIEWS = 3  # the evaluation view and two augmented ones
NUM_KEPT = (5, 10, 20, 50, 100, 1000)
BITS = {24: "float32", 11: "11 bits", 8: "8 bits", 6: "6 bits", 4: "4 bits"}
LOSSES = ("js", "symmetric_kl")
TEMPERATURE = 0.25
Row = dict[str, object]


@dataclass(frozen=True)
class Views:
    """Of each view its image, its number, what replays it, and ``[N, classes]`` what both networks say."""

    image_ids: list[str]
    numbers: list[int]
    replays: list[Replay]
    teacher: NDArray[np.float64]
    student: NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """Losses of the student against labels, per view, and the gradients with respect to its logits."""

    losses: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def main() -> None:
    arguments = _arguments()
    views = look_at(sorted(arguments.images.rglob("*.jpg")), arguments.images, arguments.weights, arguments.num_images)
    dense = against(torch.from_numpy(views.teacher).log(), views.student)
    rows = []
    for num_kept in NUM_KEPT:
        for bits in BITS:
            rows.append(measure(views, dense, num_kept, bits))
            print(rows[-1], flush=True)
    text = body(views, dense, rows, sure(views))
    print(text)
    if arguments.write:
        command = "python benchmarks/soft_label_size.py --images FOLDER --weights TEACHER"
        write_section("Size and error of stored soft labels", command, text)


def look_at(paths: list[Path], root: Path, weights: Path, num_images: int) -> Views:
    """Both networks on the views of ``num_images`` photographs, evenly taken from all."""
    spec = ModelSpec(
        *("timm:mobilenetv2_100", NUM_CLASSES, {"pad_type": "same"}, str(weights)), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    predictor = open_predictor(spec, num_threads=torch.get_num_threads())
    found = Views([], [], [], np.zeros((0, NUM_CLASSES)), np.zeros((0, NUM_CLASSES)))
    teacher, student = [], []
    for path in paths[:: max(1, len(paths) // num_images)][:num_images]:
        source, image_id = SourceImage(path.read_bytes()), f"pool/{path.relative_to(root)}"
        made = [source.view(image_id, number, Recipe(SIZE_PX, CROP_PCT)) for number in range(NUM_VIEWS)]
        for number, (_, replay) in enumerate(made):
            found.image_ids.append(image_id)
            found.numbers.append(number)
            found.replays.append(replay)
        pixels = np.stack([view for view, _ in made])
        teacher.append(predictor.probs(pixels))
        student.append(predictor.probs(halved(pixels)))
    return Views(found.image_ids, found.numbers, found.replays, np.concatenate(teacher), np.concatenate(student))


def halved(views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = SIZE_PX // 2
    return np.stack([cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA) for view in views])


def against(teacher_logits: torch.Tensor, student: NDArray[np.float64]) -> Target:
    """Each loss of each view, and its gradient with respect to the student's logits, in float64."""
    losses, gradients = {}, {}
    for name in LOSSES:
        logits = torch.from_numpy(student).log().requires_grad_()
        losses[name] = torch.vmap(partial(_of_one, name))(logits, teacher_logits.double())
        gradients[name] = torch.autograd.grad(losses[name].sum(), logits)[0]
    return Target({name: value.detach() for name, value in losses.items()}, gradients)


def _of_one(name: str, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    return objective(name)(student_logits[None], teacher_logits[None], 1.0)


def measure(views: Views, dense: Target, num_kept: int, bits: int) -> Row:
    """Bytes per view on disk, and the error of what is read back."""
    labels = soft_label.from_probs(views.teacher, num_kept, bits)
    is_evaluation = np.array(views.numbers) == 0
    with tempfile.TemporaryDirectory() as folder:
        store = TableStore(folder, SOFT_LABELS)
        every, evaluation = (write(store, views, labels, mask) for mask in (is_evaluation | True, is_evaluation))
        stored = store.read(every)
        sizes = [part.size_bytes / part.num_rows for part in (every, evaluation)]
    found = against(logits_of(read(stored, views), NUM_CLASSES), views.student)
    row: Row = {"num_kept": num_kept, "rounding": BITS[bits]}
    row |= {"bytes per view": f"{sizes[0]:.1f}", "evaluation views alone": f"{sizes[1]:.1f}"}
    for name in LOSSES:
        error, off = errors(name, found, dense)
        row |= {f"{name}: error of the loss": f"{error:.1e}", f"{name}: of its gradient": f"{off:.2%}"}
    return row


def errors(name: str, found: Target, dense: Target) -> tuple[float, float]:
    """Of a loss, nats, and of its gradient, a share; see the text above the tables."""
    off = (found.gradients[name] - dense.gradients[name]).norm(dim=1) / dense.gradients[name].norm(dim=1)
    return (found.losses[name] - dense.losses[name]).abs().mean().item(), off.median().item()


def sharpened(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    logits = np.log(probs) / TEMPERATURE
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sure(views: Views) -> str:
    """The table of the teacher that is sure, and what it says of it."""
    teacher = sharpened(views.teacher)
    dense = against(torch.from_numpy(teacher).log(), views.student)
    rows: list[Row] = []
    for num_kept in NUM_KEPT[:-1]:
        row: Row = {"num_kept": num_kept}
        labels = soft_label.from_probs(teacher, num_kept)
        rounded = np.maximum(1 - labels.probs.sum(axis=1, dtype=np.float64), 0).astype(np.float32)
        for tails, tail_prob in (("exact tails", labels.tail_prob), ("rounded tails", rounded)):
            found = against(logits_of(SoftLabel(labels.class_ids, labels.probs, tail_prob), NUM_CLASSES), views.student)
            for name in LOSSES:
                error, off = errors(name, found, dense)
                row[f"{name}, {tails}: error of the loss"] = f"{error:.1e}"
                row[f"{name}, {tails}: of its gradient"] = f"{off:.2%}"
        rows.append(row)
        print(row, flush=True)
    means = ", ".join(f"{name} {dense.losses[name].mean():.3f}" for name in LOSSES)
    return f"""The same teacher with its logits divided by {TEMPERATURE}: median top-1 probability
{np.median(teacher.max(axis=1)):.4f}, mean losses {means} nats; {soft_label.SIGNIFICANT_BITS} bits.

{table(rows)}"""


def write(store: TableStore, views: Views, labels: soft_label.SoftLabels, mask: NDArray[np.bool_]) -> Part:
    chosen = np.flatnonzero(mask)
    lists = {"class_ids": labels.class_ids[chosen].tolist(), "probs": labels.probs[chosen].tolist()}
    replays = dict(zip(REPLAY_COLUMNS, zip(*(views.replays[i] for i in chosen), strict=True), strict=True))
    names = ("top1_class", "top1_prob", "entropy", "tail_prob")
    rows = pa.table(
        {
            "image_id": [views.image_ids[i] for i in chosen],
            "view": pa.array([views.numbers[i] for i in chosen], pa.int32()),
            **{name: getattr(labels, name)[chosen] for name in names},
            **lists,
            **replays,
        }
    )
    return store.write(rows, {"part": "pool/pool-000.tar#0"}, Fingerprint("0" * 16, str(len(chosen)).zfill(16)), {}, {})


def read(stored: pa.Table, views: Views) -> SoftLabel:
    """The labels as training makes them of the table, in the order of ``views``."""
    places = {
        key: i for i, key in enumerate(zip(stored["image_id"].to_pylist(), stored["view"].to_pylist(), strict=True))
    }
    order = [places[key] for key in zip(views.image_ids, views.numbers, strict=True)]
    rows = stored.take(order)
    class_ids, probs = (np.array(rows[name].to_pylist()) for name in ("class_ids", "probs"))
    return SoftLabel(class_ids, probs.astype(np.float32), rows["tail_prob"].to_numpy().copy())


def body(views: Views, dense: Target, rows: list[Row], of_a_sure_teacher: str) -> str:
    means = ", ".join(f"{name} {dense.losses[name].mean():.3f}" for name in LOSSES)
    sureness = f"{np.median(views.teacher.max(axis=1)):.2f}"
    return f"""{len(views.numbers):,} views of {len(set(views.image_ids)):,} photographs, the evaluation view and
{NUM_VIEWS - 1} augmented ones each, in one part; every column and the file's own overhead included. The photographs
are named by random UUIDs, some 20 bytes an image; names as in ImageNet take about 2. Teacher: MobileNetV2 of
ImageNet-1k at {SIZE_PX} px, median top-1 probability {sureness}. Student: the same network at {SIZE_PX // 2} px; mean
loss against the dense float32 labels {means} nats. Error of the loss: mean absolute difference per view, nats. Of its
gradient with respect to the student's logits: median over views of the norm of the difference over the norm of the
dense one.

{table(rows)}

Hence num_kept 20 and {soft_label.SIGNIFICANT_BITS} bits: with {soft_label.SIGNIFICANT_BITS} bits a class costs 2.3
bytes, so that what 11 bits cost more buys four more classes, which count for more. With 50 classes the error is 0.4 of
that with 20, for twice the bytes.

{of_a_sure_teacher}"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
