"""The FAISS index as files that every worker of a node maps, so that the page cache holds it once.

    descriptors.faiss    coarse quantizer and codebooks, all lists empty; for a flat index, the vectors
    lists.npy            uint64 [lists, 3]: size, capacity and offset in descriptors.lists (faiss::OnDiskOneList)
    lists.bin            per list: its codes in FastScan's blocks of 32 vectors, then the vector ids, int64

FAISS maps an index file, but reads FastScan's codes into private memory: their blocks are no class it can map. Its
OnDiskInvertedLists can, once the capacity of a list is a multiple of 32; FastScan then reads the blocks from the map,
with the same results.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import faiss

INDEX_FILE = "descriptors.faiss"
_TABLE_FILE = "lists.npy"
_LISTS_FILE = "lists.bin"
_BLOCK = 32


def write_vectors(index: faiss.Index, folder: Path) -> None:
    """Writes the files; leaves the lists of ``index`` empty."""
    import faiss

    source: Any = index
    if hasattr(source, "invlists"):
        lists: Any = faiss.downcast_InvertedLists(source.invlists)
        with (folder / _LISTS_FILE).open("wb") as file:
            table = [_write_list(lists, number, source.code_size, file) for number in range(source.nlist)]
        np.save(folder / _TABLE_FILE, np.array(table, np.uint64))
        lists.reset()
    faiss.write_index(source, str(folder / INDEX_FILE))


def _write_list(lists: Any, number: int, code_size: int, file: BinaryIO) -> tuple[int, int, int]:
    """(size, capacity, offset) of the list."""
    from faiss import rev_swig_ptr

    size, offset = lists.list_size(number), file.tell()
    capacity = -(-size // _BLOCK) * _BLOCK
    if size:
        ids = np.full(capacity, -1, np.int64)
        ids[:size] = rev_swig_ptr(lists.get_ids(number), size)
        file.write(rev_swig_ptr(lists.get_codes(number), capacity * code_size).tobytes() + ids.tobytes())
    return size, capacity, offset


def open_vectors(folder: Path) -> faiss.Index:
    """The index, nothing of which is read before it is searched. Threads may share it."""
    import faiss

    index: Any = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
    if hasattr(index, "invlists"):
        lists = _map_lists(np.load(folder / _TABLE_FILE), index.code_size, folder / _LISTS_FILE)
        index.replace_invlists(lists, True)
        lists.this.disown()  # the index owns them now
    opened: faiss.Index = index
    return opened


def _map_lists(table: npt.NDArray[np.uint64], code_size: int, path: Path) -> Any:
    import faiss

    lists: Any = faiss.OnDiskInvertedLists(len(table), code_size, str(path))
    lists.read_only, lists.totsize = True, path.stat().st_size
    lists.prefetch_nthread = 0  # otherwise every search starts threads that read ahead
    faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
    lists.do_mmap()
    return lists
