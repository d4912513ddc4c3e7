"""The folders that hold the protected images in searchable form: how they are written and how they are read.

    inputs.json       ["validation", ...]    the inputs, by name; input i has the folder i, which holds
    i/
      digests.arrow     digest, image_id       of every file, also of those that cannot be decoded; by digest, each once
      images.arrow      image_id               row i is image i of all that follows
      sizes.npy         int64 [images, 2]              width and height in pixels
      starts.npy        int64 [images + 1]             image i has the key points from item i up to item i + 1
      frames.npy        uint8 [images, 128, 128]       for the comparison of pixels
      hashes.npy, thumbnails.npy                       perceptual.Looks of the images
      places.npy        float32 [keypoints, 4]         x, y, size (longer side = 1), angle (radians)
      mirrored.npy, stopped.npy                        bool [keypoints]; stopped: recurs in many protected images
      shared.npy        uint8 [images, 2048]           bits of [128, 128]: where the frame shows what others show too
      repeats.npy       bool [images]                  shows the same all over (see ``shared_parts``)
      descriptors.npy   uint8 [keypoints, 128]         mirror-canonical
      descriptors.faiss, lists.npy, lists.bin          index over them; vector id = row (see ``mapped_vectors``)

All of it is memory-mapped, so a node holds what its workers touch once, and opening it reads next to nothing. Searching
touches the index, 40 bytes per key point; a pair that is looked at touches the two images' rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.candidates.nearest import GpuIndex, search, set_num_probes, to_gpu
from ssld_pipeline.copies.candidates.perceptual_hash import Looks
from ssld_pipeline.copies.features.sift import KeyPoints
from ssld_pipeline.copies.geometry.hough_votes import Places, to_places
from ssld_pipeline.copies.index.mapped_columns import MappedDigests, MappedIds, write_digests, write_ids
from ssld_pipeline.copies.index.mapped_vectors import open_vectors
from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX

if TYPE_CHECKING:
    import faiss

_INPUTS_FILE = "inputs.json"
_ROWS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "sizes": (np.int64, (2,)),
    "frames": (np.uint8, (FRAME_SIDE_PX, FRAME_SIDE_PX)),
    "hashes": (np.uint64, ()),
    "thumbnails": (np.float32, (256,)),
    "places": (np.float32, (4,)),
    "mirrored": (np.bool_, ()),
    "descriptors": (np.uint8, (128,)),
}
_RECURRENCE: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "stopped": (np.bool_, ()),
    "shared": (np.uint8, (FRAME_SIDE_PX**2 // 8,)),
    "repeats": (np.bool_, ()),
}


@dataclass(frozen=True)
class Portrait:
    """What the index keeps of one image; ``width`` and ``height`` in pixels."""

    width: int
    height: int
    frame: npt.NDArray[np.uint8]
    looks: Looks
    keypoints: KeyPoints


class ImageWriter:
    """Writes what is known of each image alone, image by image, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: list[tuple[bytes, str]] = []
        self._images: list[str] = []
        self._counts = [0]
        self._stack = ExitStack()
        self._rows: dict[str, _RowWriter] = {}

    def __enter__(self) -> Self:
        self._rows = _open_rows(self._stack, self._folder, _ROWS)
        return self

    def add_file(self, image_id: str, file_digest: bytes) -> None:
        self._digests.append((file_digest, image_id))

    def add_image(self, image_id: str, portrait: Portrait) -> None:
        points = portrait.keypoints
        self._images.append(image_id)
        self._counts.append(len(points))
        self._rows["sizes"].append(np.array([[portrait.width, portrait.height]]))
        self._rows["frames"].append(portrait.frame[None])
        self._rows["hashes"].append(portrait.looks.hashes)
        self._rows["thumbnails"].append(portrait.looks.thumbnails)
        self._rows["places"].append(np.column_stack((points.positions, points.sizes, points.angles)))
        self._rows["mirrored"].append(points.mirrored)
        self._rows["descriptors"].append(points.descriptors)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        np.save(self._folder / "starts.npy", np.cumsum(self._counts, dtype=np.int64))
        # The first of the files with the same bytes stands for all of them.
        write_digests(self._folder / "digests.arrow", dict(reversed(self._digests)))
        write_ids(self._folder / "images.arrow", self._images)


class RecurrenceWriter:
    """Writes what recurs in several images, image by image, as a context manager; last of all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._rows: dict[str, _RowWriter] = {}

    def __enter__(self) -> Self:
        self._rows = _open_rows(self._stack, self._folder, _RECURRENCE)
        return self

    def add_image(self, stopped: npt.NDArray[np.bool_], shared: npt.NDArray[np.bool_], repeats: bool) -> None:
        """``stopped``: bool per key point of the image. ``shared``, ``repeats``: see ``shared_content.SharedParts``."""
        self._rows["stopped"].append(stopped)
        self._rows["shared"].append(np.packbits(shared)[None])
        self._rows["repeats"].append(np.array([repeats]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def _open_rows(
    stack: ExitStack, folder: Path, rows: dict[str, tuple[type[np.generic], tuple[int, ...]]]
) -> dict[str, _RowWriter]:
    return {name: stack.enter_context(_RowWriter(folder / f"{name}.npy", *kind)) for name, kind in rows.items()}


class _RowWriter:
    """Appends rows to a ``.npy`` file whose length is not known beforehand, as a context manager."""

    def __init__(self, path: Path, dtype: type[np.generic], row_shape: tuple[int, ...]) -> None:
        self._file = path.open("w+b")
        self._dtype, self._row_shape, self._num_rows = np.dtype(dtype), row_shape, 0
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._num_rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # NumPy pads the header so that the first axis can grow to any number without moving the data.
        np.lib.format.write_array_header_1_0(
            self._file,
            {"descr": self._dtype.str, "fortran_order": False, "shape": (self._num_rows, *self._row_shape)},
        )


@dataclass(frozen=True)
class ProtectedIndex:
    """The folder, opened. Threads may share it: nothing is written."""

    image_ids: MappedIds
    sizes: npt.NDArray[np.int64]
    """int64 [images, 2]: width and height in pixels."""
    first_keypoints: npt.NDArray[np.int64]
    """int64 [images + 1]: image i has the key points from item i up to item i + 1."""
    by_digest: MappedDigests
    frames: npt.NDArray[np.uint8]
    looks: Looks
    places: npt.NDArray[np.float32]
    mirrored: npt.NDArray[np.bool_]
    stopped: npt.NDArray[np.bool_]
    shared: npt.NDArray[np.uint8]
    repeats: npt.NDArray[np.bool_]
    """bool [images]: shows the same all over, so that only a copy of the whole can be told."""
    descriptors: npt.NDArray[np.uint8]
    vectors: faiss.Index | GpuIndex

    def size_of(self, image: int) -> tuple[int, int]:
        """(width, height) of one image in pixels."""
        width, height = self.sizes[image]
        return int(width), int(height)

    def keypoints(self, image: int) -> KeyPoints:
        """All key points of one image."""
        rows = slice(self.first_keypoints[image], self.first_keypoints[image + 1])
        place = np.array(self.places[rows])
        return KeyPoints(
            place[:, :2], place[:, 2], place[:, 3], np.array(self.mirrored[rows]), np.array(self.descriptors[rows])
        )

    def own_keypoints(self, image: int) -> KeyPoints:
        """Those of them that are not on the stop list: what tells this image from the others."""
        rows = slice(self.first_keypoints[image], self.first_keypoints[image + 1])
        return self.keypoints(image)[~self.stopped[rows]]

    def shared_pixels(self, image: int) -> npt.NDArray[np.bool_] | None:
        """[128, 128]: where the image shows what others show too; None for nowhere."""
        bits = self.shared[image]
        return np.unpackbits(bits).astype(np.bool_).reshape(FRAME_SIDE_PX, -1) if bits.any() else None

    def neighbours(self, descriptors: npt.NDArray[np.uint8], num_neighbours: int) -> npt.NDArray[np.int64]:
        """[n, num_neighbours]: rows of the nearest key points; -1 where there is none or it is on the stop list."""
        _, rows = search(self.vectors, descriptors, num_neighbours)
        rows[rows >= 0] = np.where(self.stopped[rows[rows >= 0]], -1, rows[rows >= 0])
        return rows

    def places_of(self, rows: npt.NDArray[np.int64]) -> Places:
        """[n, 5] as in ``agreement.Places``, of these key points."""
        place = self.places[rows]
        return to_places(place[:, :2], place[:, 2], place[:, 3], self.mirrored[rows])

    def image_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The images that own these key points; -1 for row -1."""
        images = np.searchsorted(self.first_keypoints, rows, side="right") - 1
        return np.where(rows >= 0, images, -1)


def folders_for(inputs: Sequence[str], folder: Path) -> list[Path]:
    """One new folder per input."""
    (folder / _INPUTS_FILE).write_text(json.dumps(inputs, ensure_ascii=False), encoding="utf-8")
    folders = [folder / str(number) for number in range(len(inputs))]
    for own in folders:
        own.mkdir()
    return folders


def open_indexes(
    folder: Path, num_probes: int, device: str = "cpu", inputs: Sequence[str] | None = None
) -> list[ProtectedIndex]:
    """Those of ``inputs``; default: of all. See ``open_index``."""
    names = json.loads((folder / _INPUTS_FILE).read_text(encoding="utf-8"))
    wanted = [number for number, name in enumerate(names) if inputs is None or name in inputs]
    return [open_index(folder / str(number), num_probes, device) for number in wanted]


def open_index(folder: Path, num_probes: int, device: str = "cpu", with_recurrence: bool = True) -> ProtectedIndex:
    """``num_probes``: lists of the FAISS index visited per query. ``device``: "cpu", or "cuda" to search on the GPU.
    ``with_recurrence``: False before it is known what recurs; then nothing does."""
    vectors, descriptors, starts = open_vectors(folder), _mapped(folder, "descriptors"), _mapped(folder, "starts")
    set_num_probes(vectors, num_probes)
    lengths = {"stopped": len(descriptors), "shared": len(starts) - 1, "repeats": len(starts) - 1}
    recurrence = {
        name: _mapped(folder, name) if with_recurrence else np.zeros((lengths[name], *shape), dtype)
        for name, (dtype, shape) in _RECURRENCE.items()
    }
    return ProtectedIndex(
        image_ids=MappedIds(folder / "images.arrow"),
        sizes=_mapped(folder, "sizes"),
        first_keypoints=starts,
        by_digest=MappedDigests(folder / "digests.arrow"),
        frames=_mapped(folder, "frames"),
        looks=Looks(_mapped(folder, "hashes"), _mapped(folder, "thumbnails")),
        places=_mapped(folder, "places"),
        mirrored=_mapped(folder, "mirrored"),
        descriptors=descriptors,
        vectors=to_gpu(vectors, descriptors) if device == "cuda" else vectors,
        **recurrence,
    )


def _mapped(folder: Path, name: str) -> Any:
    path = folder / f"{name}.npy"
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # Indexing a memmap makes a memmap; a plain view of it costs less per access.
    return array.view(np.ndarray)
