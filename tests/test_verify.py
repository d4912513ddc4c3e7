"""`ssld verify`: an unfinished run is not complete, damaged files break a law, and no library's traceback is shown."""

from __future__ import annotations

from pathlib import Path

import mini
import pytest
from typer.testing import CliRunner

from ssld_pipeline import cli

pytestmark = pytest.mark.slow


def ssld(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str]:
    """Exit code, and all that is printed."""
    monkeypatch.setattr("sys.argv", ["ssld", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose catalog is made, and nothing else."""
    config = mini.write_world(tmp_path_factory.mktemp("begun") / "runs")
    found = CliRunner().invoke(cli.app, ["run", str(config), "--until", "catalog"])
    assert found.exit_code == 0
    return config.parent


@pytest.fixture
def config(begun: Path, tmp_path: Path) -> Path:
    return mini.copy_world(begun, tmp_path) / "config.yaml"


def part_of(config: Path) -> Path:
    return next((config.parent / "workspace/catalog").glob("*.parquet"))


def test_an_unfinished_run_is_not_complete_and_breaks_no_law(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ((), ("--deep",)):
        code, said = ssld(capsys, monkeypatch, "verify", config, *options)
        assert code == 0 and "BROKEN" not in said
        assert "not complete: index_protected: not run" in said and "find_copies: 0 of 6 parts" in said


def test_a_workspace_that_does_not_exist_is_not_complete(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = ssld(capsys, monkeypatch, "verify", world, "--json")
    assert code == 0 and '"num_open": 1' in said and "catalog: not run" in said


def test_deep_names_a_part_with_a_changed_byte_and_exits_as_for_a_broken_law(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(part_of(config).read_bytes())
    data[len(data) // 2] ^= 1
    part_of(config).write_bytes(data)
    code, said = ssld(capsys, monkeypatch, "verify", config, "--deep")
    assert code == 1 and "BROKEN files_parts" in said and part_of(config).name in said


@pytest.mark.parametrize("words", [("status",), ("sql", "SELECT * FROM catalog"), ("verify",)])
def test_a_part_that_is_cut_is_one_message_for_every_verb(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    part_of(config).write_bytes(part_of(config).read_bytes()[:-500])
    require_message(ssld(capsys, monkeypatch, words[0], config, *words[1:]), part_of(config))


@pytest.mark.parametrize("words", [("sql", "SELECT * FROM catalog"), ("verify",)])
def test_a_part_that_no_library_can_read_is_one_message(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    part_of(config).write_bytes(b"x" * part_of(config).stat().st_size)
    require_message(ssld(capsys, monkeypatch, words[0], config, *words[1:]), part_of(config))


def require_message(found: tuple[int, str], path: Path) -> None:
    code, said = found
    assert code == 2 and f"{path.name} is damaged" in said and "ssld run CONFIG" in said and "Traceback" not in said


def test_a_library_error_without_damage_stays_a_bug(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    def fail(*args: object) -> None:
        raise duckdb.IOException("no such thing")

    monkeypatch.setattr("ssld_pipeline.verify.laws.verify_laws", fail)
    monkeypatch.setattr("sys.argv", ["ssld", "verify", str(config)])
    with pytest.raises(duckdb.IOException):
        cli.main()
