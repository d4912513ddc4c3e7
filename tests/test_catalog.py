"""The catalog stage as the runner uses it: listings in, rows and rejects out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import bad_inputs
import pyarrow as pa
import pytest

from ssld_pipeline.config.catalog import CatalogConfig
from ssld_pipeline.contracts import CATALOG
from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.stages.catalog import STAGE
from ssld_pipeline.stages.stage import Setup


def work(shards: list, classes: tuple[str, ...], images_per_part: int = 100) -> list:
    config = SimpleNamespace(catalog=CatalogConfig(images_per_part=images_per_part))
    function = STAGE.open(Setup(config, classes, {}))  # type: ignore[arg-type]
    return [function(shard.to_table()) for shard in shards]


@pytest.mark.parametrize("images_per_part", [1, 4, 100])
def test_rows_and_rejects_account_for_every_file_at_any_part_size(tmp_path: Path, images_per_part: int) -> None:
    planted = bad_inputs.write_bad_folder(tmp_path / "cat").keys() | {"dog"}
    (tmp_path / "dog").mkdir()
    shards, rejects = list_shards("labeled", "labeled", str(tmp_path), "folder", images_per_part)
    results = work(shards, ("cat",), images_per_part)
    rows = pa.concat_tables([r.rows for r in results])
    rejects += [reject for result in results for reject in result.rejects]
    found = rows["image_id"].to_pylist() + [r.image_id for r in rejects]
    assert sorted(i.rsplit("/", 1)[-1] for i in found) == sorted(planted)
    assert rows.schema == CATALOG.schema()


def test_parts_are_called_after_their_shard_and_no_larger_than_allowed(tmp_path: Path) -> None:
    bad_inputs.write_tar(tmp_path / "a.tar", [(f"{i}.jpg", bad_inputs.encode(bad_inputs.photo())) for i in range(10)])
    shards, _ = list_shards("pool", "pool", str(tmp_path), "tar", 4)
    (result,) = work(shards, (), 4)
    parts = result.rows["part"].to_pylist()
    assert max(parts.count(p) for p in parts) <= 4
    assert {p.rsplit("#", 1)[0] for p in parts} == {shards[0].name}


def test_a_listing_survives_parquet_and_arrow_ipc(tmp_path: Path) -> None:
    bad_inputs.write_bad_folder(tmp_path / "cat")
    shards, _ = list_shards("pool", "pool", str(tmp_path), "folder", 100)
    table = shards[0].to_table()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    read = pa.ipc.open_stream(sink.getvalue()).read_all()
    function = STAGE.open(Setup(SimpleNamespace(catalog=CatalogConfig()), (), {}))  # type: ignore[arg-type]
    assert function(read).rows == function(table).rows


def test_only_the_size_of_parts_is_a_setting() -> None:
    config = SimpleNamespace(catalog=CatalogConfig(images_per_part=7, max_reject_share=0.5))
    assert STAGE.settings(config) == {"images_per_part": 7}  # type: ignore[arg-type]
    assert STAGE.uses_classes
