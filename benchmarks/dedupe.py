"""Recall per kind of copy, false pairs and time per image of index_protected and dedupe, on your own photographs.

    python benchmarks/dedupe.py --images PHOTOS [--negatives OTHERS] [--num-protected 300] [--pairs SEEN]

Draws protected images from PHOTOS, plants copies of them in many kinds and severities, and mixes them with pictures
that are no copies (OTHERS, or the rest of PHOTOS), some of which share a watermark or a frame with protected ones.
--pairs writes every false pair as a picture, pool left, protected right: look before you believe that it is false.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ssld_pipeline.config import RunConfig
from ssld_pipeline.stages import dedupe, index_protected
from ssld_pipeline.stages.stage import Setup

Pixels = npt.NDArray[np.uint8]
Copy = Callable[[Pixels, np.random.Generator], Pixels]


def crop(share: float) -> Copy:
    """A crop of this share of the area, anywhere."""

    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = (max(8, round(side * share**0.5)) for side in image.shape[:2])
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        return image[top : top + height, left : left + width]

    return copy


def resize(longer_side: int, stretch: float = 1.0) -> Copy:
    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        scale = longer_side / max(image.shape)
        size = max(8, round(image.shape[1] * scale * stretch)), max(8, round(image.shape[0] * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)

    return copy


def jpeg(quality: int) -> Copy:
    return lambda image, rng: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def rotate(degrees: float) -> Copy:
    """Turned about the centre; what is outside is black."""

    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees * rng.choice([-1, 1]), 1.0)
        return cv2.warpAffine(image, turn, (width, height))

    return copy


def perspective(strength: float) -> Copy:
    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = image.shape[:2]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        moved = corners + rng.uniform(-strength, strength, (4, 2)) * (width, height)
        bend = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
        return cv2.warpPerspective(image, bend, (width, height))

    return copy


def text(num_lines: int) -> Copy:
    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        image = image.copy()
        for y in np.linspace(0.15, 0.95, num_lines) * image.shape[0]:
            words = "".join(rng.choice(list("ABCDEFGHKLMNRSTUVW 012345"), 24))
            cv2.putText(image, words, (4, int(y)), cv2.FONT_HERSHEY_SIMPLEX, image.shape[1] / 340, (255, 255, 255), 3)
            cv2.putText(image, words, (4, int(y)), cv2.FONT_HERSHEY_SIMPLEX, image.shape[1] / 340, (20, 20, 20), 1)
        return image

    return copy


def gamma(power: float) -> Copy:
    return lambda image, rng: (255 * (image / 255.0) ** power).astype(np.uint8)


def pad(share: float) -> Copy:
    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        sides = rng.integers(0, np.array(image.shape[:2]).repeat(2) * share + 1).tolist()
        return cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=rng.integers(0, 256, 3).tolist())

    return copy


def noise(sigma: float) -> Copy:
    return lambda image, rng: np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def inside(share: float) -> Copy:
    """Small within another picture (here: within its own enlarged, blurred, mirrored self); ``share`` of the side."""

    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = (round(side * share) for side in image.shape[:2])
        page = cv2.GaussianBlur(image[::-1, ::-1], (0, 0), 6)
        page = np.ascontiguousarray(page // 2 + rng.integers(0, 60, (*page.shape[:2], 1), dtype=np.uint8))
        top, left = rng.integers(page.shape[0] - height + 1), rng.integers(page.shape[1] - width + 1)
        page[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return page

    return copy


def chain(*steps: Copy) -> Copy:
    def copy(image: Pixels, rng: np.random.Generator) -> Pixels:
        for step in steps:
            image = step(image, rng)
        return np.ascontiguousarray(image)

    return copy


def mirror(image: Pixels, rng: np.random.Generator) -> Pixels:
    return image[:, ::-1]


def quarter_turn(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.rot90(image, rng.choice([1, 3]))


def grey(image: Pixels, rng: np.random.Generator) -> Pixels:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def blur(sigma: float) -> Copy:
    return lambda image, rng: cv2.GaussianBlur(image, (0, 0), sigma)


KINDS: dict[str, dict[str, Copy]] = {
    "easy": {
        "same size, jpeg 50": jpeg(50),
        "160 px": resize(160),
        "800 px": resize(800),
        "mirror": mirror,
        "gamma .7": gamma(0.7),
        "grey": grey,
    },
    "medium": {
        "crop 70 %": crop(0.7),
        "turned 10 deg": rotate(10),
        "90 deg": quarter_turn,
        "text": text(2),
        "blur 2": blur(2),
        "gamma 2": gamma(2),
        "pad": pad(0.2),
        "96 px": resize(96),
        "noise 15": noise(15),
        "stretch 1.25": resize(256, 1.25),
        "jpeg 15": jpeg(15),
    },
    "hard": {
        "crop 45 %": crop(0.45),
        "mirror, crop 60 %, jpeg 30": chain(mirror, crop(0.6), jpeg(30)),
        "turned 30 deg": rotate(30),
        "blur 4": blur(4),
        "48 px": resize(48),
        "text, 6 lines": text(6),
        "perspective .08": perspective(0.08),
        "pad, 128 px": chain(pad(0.4), resize(128)),
        "crop 60 %, gamma 2, 128 px": chain(crop(0.6), gamma(2), resize(128)),
    },
    "extreme": {
        "crop 25 %": crop(0.25),
        "turned, crop 50 %, jpeg 10": chain(rotate(15), crop(0.5), jpeg(10)),
        "inside, .5 of side": inside(0.5),
        "inside, .33 of side": inside(0.33),
        "perspective .16": perspective(0.16),
    },
}


def watermark(image: Pixels) -> Pixels:
    image = image.copy()
    for y in (0.3, 0.6, 0.9):
        place = (6, int(y * image.shape[0]))
        cv2.putText(image, "(c) photo-stock", place, cv2.FONT_HERSHEY_DUPLEX, image.shape[1] / 290, (255, 255, 255), 2)
    return image


def framed(image: Pixels) -> Pixels:
    """The picture in a patterned frame that takes a third of the area."""
    pattern = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    page = cv2.resize(pattern, (256, 256), interpolation=cv2.INTER_CUBIC)
    page[24:232, 24:232] = cv2.resize(image, (208, 208), interpolation=cv2.INTER_AREA)
    return page


def plant(
    protected: dict[str, Pixels], per_kind: int, rng: np.random.Generator
) -> Iterator[tuple[str, str, str, Pixels]]:
    """(tier, kind, name of the original, copy)."""
    names = sorted(protected)
    for tier, kinds in KINDS.items():
        for kind, copy in kinds.items():
            for name in rng.choice(names, min(per_kind, len(names)), replace=False):
                yield tier, kind, str(name), np.ascontiguousarray(copy(protected[name], rng))


def encode(image: Pixels) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def catalog_rows(folder: Path, images: dict[str, bytes]) -> pa.Table:
    folder.mkdir(parents=True)
    rows = []
    for number, (image_id, data) in enumerate(images.items()):
        path = folder / f"{number}.jpg"
        path.write_bytes(data)
        rows.append({"image_id": image_id, "uri": str(path), "offset": 0, "size_bytes": len(data)})
    return pa.Table.from_pylist(rows)


def read_folder(folder: Path, count: int, rng: np.random.Generator) -> list[Pixels]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = rng.permutation(len(paths))[:count]
    return [image for i in chosen if (image := cv2.imread(str(paths[i]))) is not None]


def configured(settings: dict[str, object]) -> RunConfig:
    inputs = {role: {"uri": "unused", "format": "folder"} for role in ("labeled", "protected", "pool")}
    return RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": inputs,
            "teacher": {"model": "timm:none", "weights": None},
            "student": {"model": "timm:none"},
            "dedupe": settings,
        }
    )


def report(found: pa.Table, planted: dict[str, tuple[str, str, str]], num_negatives: int) -> list[tuple[str, str]]:
    """Prints the table and returns the false pairs."""
    pairs = [(r["image_id"], r["protected_id"]) for r in found.to_pylist() if r["is_duplicate"]]
    right = {image for image, original in pairs if image in planted and planted[image][2] == original}
    wrong = [(i, o) for i, o in pairs if i in planted and planted[i][2] != o]
    false = [pair for pair in pairs if pair[0] not in planted]
    for tier, kinds in KINDS.items():
        ids = [i for i, p in planted.items() if p[0] == tier]
        print(f"{tier:10}{100 * sum(i in right for i in ids) / len(ids):6.1f} %  of {len(ids)}")
        for kind in kinds:
            ids = [i for i, p in planted.items() if p[1] == kind]
            print(f"  {kind:34}{100 * sum(i in right for i in ids) / len(ids):6.1f} %")
    print(f"false: {len({i for i, _ in false})} of {num_negatives} negatives; wrong original: {len(wrong)} pairs")
    return false + wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, action="append")
    parser.add_argument("--negatives", type=Path)
    parser.add_argument("--num-protected", type=int, default=300)
    parser.add_argument("--num-negatives", type=int, default=1500)
    parser.add_argument("--per-kind", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="dedupe key=value")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    photos = [image for folder in args.images for image in read_folder(folder, 1 << 30, rng)]
    order = rng.permutation(len(photos))
    protected = {f"protected/{i}": photos[k] for i, k in enumerate(order[: args.num_protected])}
    if args.negatives:
        others = read_folder(args.negatives, args.num_negatives, rng)
    else:
        others = [photos[k] for k in order[args.num_protected :][: args.num_negatives]]
    for disguise, names in ((watermark, list(protected)[:20]), (framed, list(protected)[20:40])):
        protected |= {name: disguise(protected[name]) for name in names}
    copies = list(plant(protected, args.per_kind, rng))
    planted = {f"pool/copy-{i}": copy[:3] for i, copy in enumerate(copies)}
    negatives = others + [watermark(image) for image in others[:100]] + [framed(image) for image in others[100:200]]
    pool = {f"pool/copy-{i}": copy[3] for i, copy in enumerate(copies)}
    pool |= {f"pool/other-{i}": image for i, image in enumerate(negatives)}
    config = configured(dict(setting.split("=") for setting in args.set))
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), config, protected, pool)
    for number, (image, original) in enumerate(report(found, planted, len(negatives))):
        if args.pairs:
            args.pairs.mkdir(parents=True, exist_ok=True)
            both = [cv2.resize(side, (256, 256)) for side in (pool[image], protected[original])]
            cv2.imwrite(str(args.pairs / f"{number}-{image.rpartition('/')[2]}.jpg"), np.hstack(both))


def measure(scratch: Path, config: RunConfig, protected: dict[str, Pixels], pool: dict[str, Pixels]) -> pa.Table:
    """Rows of ``duplicates`` for the pool, on one thread; prints times."""
    protected_rows = catalog_rows(scratch / "protected", {k: encode(v) for k, v in protected.items()})
    pool_rows = catalog_rows(scratch / "pool", {k: encode(v) for k, v in pool.items()})
    folder = scratch / "index"
    folder.mkdir()
    started = time.perf_counter()
    figures, _ = index_protected.build(Setup(config, (), {}), protected_rows, folder)
    print(f"index: {figures}, {time.perf_counter() - started:.1f} s")
    work = dedupe.open_dedupe(Setup(config, (), {"index_protected": folder}))
    started, cpu_started = time.perf_counter(), time.process_time()
    result = work(pool_rows)
    wall, cpu = (
        1000 * (now - then) / len(pool)
        for now, then in ((time.perf_counter(), started), (time.process_time(), cpu_started))
    )
    print(
        f"dedupe: {len(pool)} images, {cpu:.1f} ms of CPU and {wall:.1f} ms by the clock per image, one thread; "
        f"{result.rows.num_rows} rows"
    )
    return result.rows


if __name__ == "__main__":
    main()
