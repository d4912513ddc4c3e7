"""Files that the config names beside its inputs: what is in them counts, not where they lie."""

from __future__ import annotations

from pathlib import Path

import mini
import pytest
from test_run import bring, planned, ran

from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.id_list import read_ids
from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.store.workspace import Workspace


def test_relative_paths_start_at_the_config_and_one_path_is_a_list_of_one(tmp_path: Path) -> None:
    config = load_config(mini.write_config(tmp_path, select={"exclude": "a.txt"}))
    assert config.select.exclude == (str(tmp_path / "a.txt"),)
    config = load_config(mini.write_config(tmp_path, select={"exclude": ["x/a.txt", "/b.txt", "s3://c/d.txt"]}))
    assert config.select.exclude == (str(tmp_path / "x/a.txt"), "/b.txt", "s3://c/d.txt")


def test_ids_are_lines_without_comments(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff# why\npool/b.tar/ü 1.jpg\r\n\npool/a.jpg  \n".encode())
    (tmp_path / "b.txt").write_text("pool/a.jpg\npool/x\u2028y.jpg")
    uris = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    assert read_ids(uris, "select.exclude") == ["pool/a.jpg", "pool/b.tar/ü 1.jpg", "pool/x\u2028y.jpg"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_missing_or_binary_file_is_a_users_mistake(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "list.txt"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"select\.exclude: .*list\.txt"):
        read_ids([str(path)], "select.exclude")


@pytest.fixture(scope="module")
def selected(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to select has run, without a list."""
    folder = mini.copy_world(finished_world, tmp_path_factory.mktemp("selected"))
    bring(load_config(folder / "config.yaml"), until="select")
    return folder


def test_the_content_of_a_list_is_what_reruns_a_stage(selected: Path) -> None:
    first = run_sql(Workspace(str(selected / "workspace")), "SELECT image_id FROM manifest ORDER BY rank")["image_id"][
        0
    ]
    (selected / "bad.txt").write_text(f"{first}\n")
    config = load_config(selected / "config.yaml", ("select.exclude=bad.txt",))
    assert "side_files.select.exclude" in planned(config)["select"].reasons()[0][0]
    assert ran(bring(config, until="select")) == {"select": 1}
    left = run_sql(Workspace(config.workspace), "SELECT image_id FROM manifest")["image_id"]
    assert first not in left and len(left) > 24

    (selected / "bad.txt").rename(selected / "renamed.txt")
    moved = load_config(selected / "config.yaml", ("select.exclude=[renamed.txt]",))
    assert not planned(moved)["select"].changes
    (selected / "renamed.txt").write_text("")
    assert ran(bring(moved, until="select")) == {"select": 1}
    (selected / "renamed.txt").unlink()
    with pytest.raises(UserError, match=r"select\.exclude: .*renamed\.txt does not exist"):
        planned(moved)
