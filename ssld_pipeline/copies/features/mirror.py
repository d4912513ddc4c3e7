"""The form of a SIFT descriptor that an image and its mirror image share.

Mirroring a patch about its orientation axis swaps the descriptor's rows and reverses its orientation bins. Keeping one
of the two forms by a rule that both patches agree on finds mirrored copies without indexing the mirror images, which
would double the index.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Descriptors = npt.NDArray[np.uint8]


def mirror_descriptors(descriptors: Descriptors) -> Descriptors:
    """uint8 [n, 128]: the descriptors of the mirrored patches, in OpenCV's layout (4 rows, 4 columns, 8 bins)."""
    grid = descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    return grid[..., (-np.arange(8)) % 8].reshape(-1, 128)


def canonical_descriptors(descriptors: Descriptors) -> tuple[Descriptors, npt.NDArray[np.bool_]]:
    """([n, 128], mirrored [n]): of both forms the one with more mass in bins 1 to 3 than in bins 5 to 7."""
    bins = descriptors.reshape(-1, 16, 8).sum(axis=1, dtype=np.int64)
    mirrored = bins[:, 1:4].sum(axis=1) < bins[:, 5:8].sum(axis=1)
    return np.where(mirrored[:, None], mirror_descriptors(descriptors), descriptors), mirrored
