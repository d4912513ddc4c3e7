"""Finds the near-identical images of the pool: the same picture again, resized, recompressed, retouched or trimmed.

Equal bytes are found by digest. Then each distinct file proposes its nearest by its thumbnail (``near_pairs``), and the
pixels of the proposed pairs are compared (``block_agreement``); each image is read once more. A group is gathered
around its best image (``groups``): largest area, then most bytes, then smallest image_id. Everything follows that
order, so parts, threads and the order of rows change nothing.

It runs in the driver, on its cores; 14.2 M images want some 12 GB of memory and 15 GB of temporary disk (TMPDIR), and
16 KB more for each image that is like another. Pixels are compared by up to 8 processes of 0.1 to 0.3 GB.

What is found is evidence; ``dedupe`` decides which image of a group is kept. Pictures mirrored or turned are not asked
for: whoever mirrors a training image has augmented it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import BadImage
from ssld_pipeline.stages.stage import Json, QueryStage

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.within_pool.near_identical import Compared, Frames, Pairs
    from ssld_pipeline.inputs.read import ImageReader

# ``file``: number of a distinct file, by falling quality; ``place``: that of an image.
_ORDER = """
CREATE OR REPLACE TEMP TABLE images AS
SELECT *, dense_rank() OVER (ORDER BY first) - 1 AS file
FROM (SELECT *, min(place) OVER (PARTITION BY digest) AS first
      FROM (SELECT image_id, digest, width, height, uri, "offset", size_bytes, row_number() OVER
                   (ORDER BY width::BIGINT * height DESC, size_bytes DESC, image_id) AS place
            FROM looks JOIN (SELECT image_id, uri, "offset", size_bytes FROM catalog WHERE role = 'pool')
                       USING (image_id)))
"""

# Images of the same bytes share the evidence of their file.
_ROWS = """
WITH joined AS (SELECT * FROM near WHERE joins),
found AS (
    SELECT image_id, other_id, 'perceptual' AS method, place, near.* EXCLUDE (better, worse)
    FROM near JOIN (SELECT file AS worse, image_id, place FROM images WHERE place = first) USING (worse)
              JOIN (SELECT file AS better, image_id AS other_id FROM images WHERE place = first) USING (better)
    UNION ALL BY NAME
    SELECT image_id, other_id, 'perceptual' AS method, place, joined.* EXCLUDE (better, worse)
    FROM joined JOIN (SELECT file AS worse, image_id, place FROM images WHERE place <> first) USING (worse)
                JOIN (SELECT file AS better, image_id AS other_id FROM images WHERE place = first) USING (better)
    UNION ALL BY NAME
    SELECT i.image_id, f.image_id AS other_id, 'exact' AS method, i.place, 1 AS score, {num_blocks} AS num_blocks,
           1 AS coverage, [1, 0, 0, 0, 1, 0, 0, 0, 1] AS homography, file NOT IN (SELECT worse FROM joined) AS joins
    FROM images i JOIN (SELECT file, image_id FROM images WHERE place = first) f USING (file) WHERE place <> first
)
SELECT * EXCLUDE (place, joins),
       CASE WHEN joins THEN row_number() OVER (PARTITION BY other_id, joins ORDER BY place) END AS rank FROM found
"""


def group(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """``repeats`` rows from the views ``looks`` and ``catalog``. An image that cannot be read again repeats nothing but
    equal bytes."""
    from ssld_pipeline.copies.pixels.block_agreement import NUM_BLOCKS
    from ssld_pipeline.copies.within_pool.near_identical import near_identical
    from ssld_pipeline.copies.within_pool.near_pairs import near_pairs

    num_threads = os.cpu_count() or 1
    tables.execute(_ORDER)
    with tempfile.TemporaryDirectory() as scratch:
        thumbnails = _read_looks(tables, Path(scratch))
        pairs = near_pairs(thumbnails, num_threads)
        frames = _read_frames(tables, pairs, Path(scratch), num_threads)
        found = near_identical(frames, pairs, len(thumbnails), config.dedupe.min_repeat_score, num_threads)
    tables.register("near", _near_table(*found))
    return tables.sql(_ROWS.format(num_blocks=NUM_BLOCKS)).to_arrow_table()


def _near_table(confirmed: Compared, centres: npt.NDArray[np.int64]) -> pa.Table:
    """Its ``joins`` says that worse is of the group of better."""
    import pyarrow as pa

    better, worse = confirmed.pairs.T
    matrices = pa.FixedSizeListArray.from_arrays(confirmed.homography.ravel(), 9)
    return pa.table(
        {
            "better": better,
            "worse": worse,
            "score": confirmed.score,
            "num_blocks": confirmed.num_blocks,
            "coverage": confirmed.coverage,
            "homography": matrices.cast(pa.list_(pa.float32())),
            "joins": centres[worse] == better,
        }
    )


def _read_looks(tables: duckdb.DuckDBPyConnection, scratch: Path) -> npt.NDArray[np.uint8]:
    """uint8 [files, 1024]: their thumbnails, in the order of their numbers; memory-mapped."""
    import numpy as np

    ((num_files,),) = tables.execute("SELECT count(DISTINCT file) FROM images").fetchall()
    shape = (max(1, num_files), 1024)
    thumbnails = np.lib.format.open_memmap(scratch / "thumbnails.npy", mode="w+", dtype=np.uint8, shape=shape)
    query = "SELECT file, thumbnail FROM looks JOIN images USING (image_id) WHERE place = first"
    for batch in tables.sql(query).to_arrow_reader(16_384):
        pixels = np.frombuffer(b"".join(batch["thumbnail"].to_pylist()), np.uint8)
        thumbnails[batch["file"].to_numpy()] = pixels.reshape(-1, 1024)
    return thumbnails[:num_files]


def _read_frames(tables: duckdb.DuckDBPyConnection, pairs: Pairs, scratch: Path, num_threads: int) -> Frames:
    """The frames of all files that stand in ``pairs``, each read once and in the order of the shards."""
    import numpy as np
    import pyarrow as pa

    from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX
    from ssld_pipeline.copies.threads import on_threads
    from ssld_pipeline.copies.within_pool.near_identical import Frames
    from ssld_pipeline.inputs.read import ImageReader

    files = np.unique(pairs)
    tables.register("asked", pa.table({"file": files, "slot": np.arange(len(files))}))
    query = """SELECT slot, uri, "offset", size_bytes, width, height FROM images JOIN asked USING (file)
               WHERE place = first ORDER BY uri, "offset" """
    shape = (max(1, len(files)), FRAME_SIDE_PX, FRAME_SIDE_PX)
    path = scratch / "frames.npy"
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    sizes, is_read, reader = np.zeros((len(files), 2), np.int64), np.zeros(len(files), np.bool_), ImageReader()
    for slot, size, frame in on_threads(lambda row: _frame(row, reader), _rows(tables, query), num_threads):
        sizes[slot] = size
        if frame is not None:
            pixels[slot], is_read[slot] = frame, True
    pixels.flush()
    return Frames(files, is_read, path, sizes)


def _rows(tables: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
    for batch in tables.sql(query).to_arrow_reader(8192):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _frame(row: tuple[Any, ...], reader: ImageReader) -> tuple[int, tuple[int, int], npt.NDArray[np.uint8] | None]:
    """(slot, (width, height), frame); None for an image that cannot be read any more."""
    from ssld_pipeline.copies.features.sift import resize_grey
    from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX, protected_frame
    from ssld_pipeline.kernels.images import decode

    slot, uri, offset, size_bytes, width, height = row
    try:
        image = decode(reader.read(uri, offset, size_bytes), min_short_side=FRAME_SIDE_PX)
    except BadImage:
        return slot, (width, height), None
    return slot, (width, height), protected_frame(resize_grey(image.pixels, max(image.pixels.shape)))


def figures(rows: pa.Table) -> dict[str, Json]:
    """How many groups there are, the images in them besides the best, and how many of those are equal bytes."""
    import pyarrow.compute as pc

    joined = rows.filter(pc.is_valid(rows["rank"]))
    sizes = joined.group_by("other_id").aggregate([("image_id", "count")])["image_id_count"]
    exact = pc.sum(pc.equal(joined["method"], "exact")).as_py() or 0
    largest = 1 + (pc.max(sizes).as_py() or 0)
    return {"groups": len(sizes), "repeats": joined.num_rows, "of_equal_bytes": exact, "largest_group": largest}


STAGE = QueryStage(
    name="group_pool",
    version=2,
    table="repeats",
    reads=("catalog", "looks"),
    settings=lambda config: config.dedupe.model_dump(mode="json", include={"min_repeat_score"}),
    query=group,
    figures=figures,
    roles=lambda config: ("pool",),
    enabled=lambda config: config.dedupe.within_pool,
)
