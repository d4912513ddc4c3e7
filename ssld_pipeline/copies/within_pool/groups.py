"""Groups of like images: each image of a group is confirmed to be like the group's best, never through a third one.

Chains are no groups: of a film's frames each is like the next, and the first is not like the last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled

Pairs = npt.NDArray[np.int64]
Centres = npt.NDArray[np.int64]


def gather(num_images: int, confirmed: Pairs) -> Centres:
    """int64 [num_images]: the image whose group this one joins, itself where it is kept.

    ``confirmed`` [p, 2] has the better image, of the smaller number, first. From the best image on, each joins the best
    one that is kept and that it is confirmed to be like.
    """
    order = np.lexsort((confirmed[:, 0], confirmed[:, 1]))
    return _join(np.arange(num_images), np.ascontiguousarray(confirmed[order]))


@compiled
def _join(centres: Centres, ordered: Pairs) -> Centres:
    for k in range(len(ordered)):
        better, worse = ordered[k, 0], ordered[k, 1]
        if centres[worse] == worse and centres[better] == better:
            centres[worse] = better
    return centres


def missing_links(centres: Centres, confirmed: Pairs) -> Pairs:
    """[q, 2]: pairs worth comparing, each once: of two images that are alike, one and the centre of the other.

    An image proposes a few nearest ones alone; in a large group these differ from image to image, and the group would
    fall into many.
    """
    left, right = confirmed.T
    links = np.concatenate((np.stack((centres[left], right), 1), np.stack((centres[right], left), 1)))
    links = links[centres[links[:, 0]] != centres[links[:, 1]]]
    return np.unique(np.sort(links, axis=1), axis=0)


def without(pairs: Pairs, known: Pairs, num_images: int) -> Pairs:
    """Those of ``pairs`` that are not among ``known``."""
    return pairs[~np.isin(_key(pairs, num_images), _key(known, num_images))]


def _key(pairs: Pairs, num_images: int) -> npt.NDArray[np.int64]:
    return np.asarray(pairs[:, 0] * num_images + pairs[:, 1], np.int64)
