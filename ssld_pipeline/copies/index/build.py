"""How the index of protected images is built: what is kept of each image, then what recurs in several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssld_pipeline.copies.index.protected_index import Portrait, ProtectedIndex
    from ssld_pipeline.copies.index.shared_content import SharedParts
    from ssld_pipeline.copies.settings import IndexSettings

# Euclidean; a descriptor's norm is about 512. On product photographs 5 % of all key points recur in 8 others within
# 125, 21 % within 200, which is no longer a watermark's doing.
_RECURRENCE_DISTANCE = 125
_NUM_PROBES = 4


def portray(data: bytes, settings: IndexSettings) -> Portrait:
    """What the index keeps of an encoded image; raises BadImage."""
    from ssld_pipeline.copies.candidates.perceptual_hash import look
    from ssld_pipeline.copies.features.sift import detect_keypoints, resize_grey
    from ssld_pipeline.copies.index.protected_index import Portrait
    from ssld_pipeline.copies.pixels.block_agreement import protected_frame
    from ssld_pipeline.kernels.images import decode

    image = decode(data, min_short_side=settings.image_side)
    grey = resize_grey(image.pixels, settings.image_side)
    keypoints = detect_keypoints(grey, settings.protected_keypoints, coarse_share=1 / 3)
    return Portrait(image.width, image.height, protected_frame(grey), look(grey), keypoints)


def index_vectors(folder: Path, stop_recurrence: int, num_threads: int) -> dict[str, int]:
    """Index the key points of the images written to ``folder``, and write what recurs in several images.

    num_stopped: key points on the stop list. num_sharing: images that share some of their pixels with another one, or
    with themselves moved. num_repeating: images that repeat all over.
    """
    import numpy as np

    from ssld_pipeline.copies.candidates.nearest import build_index
    from ssld_pipeline.copies.index.mapped_vectors import write_vectors
    from ssld_pipeline.copies.index.protected_index import RecurrenceWriter, open_index
    from ssld_pipeline.copies.index.shared_content import find_shared_parts
    from ssld_pipeline.copies.threads import on_threads

    descriptors = np.load(folder / "descriptors.npy", mmap_mode="r")
    write_vectors(build_index(descriptors, num_threads), folder)
    index = open_index(folder, _NUM_PROBES, with_recurrence=False)
    counts = Counter(num_stopped=0, num_sharing=0, num_repeating=0)

    def recurring(image: int) -> tuple[npt.NDArray[np.bool_], SharedParts]:
        return _recurring(index, image, stop_recurrence), find_shared_parts(index, image)

    with RecurrenceWriter(folder) as writer:
        for stopped, parts in on_threads(recurring, range(len(index.image_ids)), num_threads):
            writer.add_image(stopped, parts.pixels, parts.repeats)
            own = {"num_stopped": stopped.sum(), "num_sharing": parts.pixels.any(), "num_repeating": parts.repeats}
            counts.update({name: int(count) for name, count in own.items()})
    return {
        "num_vectors": len(descriptors),
        "num_without_keypoints": int((np.diff(index.first_keypoints) == 0).sum()),
        **counts,
    }


def _recurring(index: ProtectedIndex, image: int, stop_recurrence: int) -> npt.NDArray[np.bool_]:
    """bool per key point of ``image``: does it recur in ``stop_recurrence`` other protected images?

    An image most of whose key points recur is itself repeated (a burst, copies); it keeps them all, or nothing of it
    could be found.
    """
    import numpy as np

    from ssld_pipeline.copies.candidates.nearest import search

    own = index.keypoints(image).descriptors
    if not len(own):
        return np.zeros(0, np.bool_)
    _, rows = search(index.vectors, own, 2 * stop_recurrence + 2)
    found = index.descriptors[np.maximum(rows, 0)].astype(np.int32)
    near = ((found - own[:, None].astype(np.int32)) ** 2).sum(axis=2) <= _RECURRENCE_DISTANCE**2
    others = np.where(near & (rows >= 0), index.image_of(rows), -1)
    others = np.sort(np.where(others == image, -1, others), axis=1)
    is_new = (others >= 0) & (np.diff(others, axis=1, prepend=-1) != 0)
    recurs = is_new.sum(axis=1) >= stop_recurrence
    return np.zeros_like(recurs) if recurs.mean() > 0.5 else np.asarray(recurs)
