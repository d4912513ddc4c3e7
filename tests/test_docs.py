"""The pages of docs/: their commands run, their configs are valid, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import mini
import pytest
import typer
import yaml
from test_cli import verb

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
IDS = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
RECIPE = {"steps": 3, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32, "validations": 1}
NETWORKS = {"resnet": "timm:test_efficientnet", "large": "timm:test_resnet", "small": "timm:test_resnet"}


class Block(NamedTuple):
    """A fenced block: its info string, and what is in it."""

    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(info.strip(), text) for info, text in fences]


def commands(page: Path, info: str) -> list[list[str]]:
    """The words of each line of the shell blocks, comments left out."""
    lines = [line for block in blocks(page) if block.info == info for line in block.text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def settings_of(block: Block) -> dict[str, Any]:
    """A config of the tests with the sections of a snippet in place of, or merged into, its own."""
    return _merged(mini.settings(), yaml.safe_load(block.text))


def _merged(own: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    found = dict(own)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def test_there_are_pages() -> None:
    assert {"howto/train-many.md", "explain/distillation.md"} <= set(IDS)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_is_of_a_kind_that_is_tested(page: Path) -> None:
    assert {block.info for block in blocks(page)} <= {"sh", "sh cluster", "yaml"}
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_line_is_one_that_ssld_understands(page: Path) -> None:
    verbs: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands(page, "sh") + commands(page, "sh cluster"):
        assert words[0] == "ssld", words
        assert verbs[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_config_snippet_is_valid(page: Path) -> None:
    for block in blocks(page):
        if block.info == "yaml":
            assert RunConfig.model_validate(settings_of(block)), block.text


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=[*IDS, "README.md"])
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in IDS if f"(docs/{name})" not in text] == []


@pytest.fixture(scope="module")
def docs_world(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in which all is mined, with the trainings of the page, small and short in place of their presets."""
    folder = mini.copy_world(finished_world, tmp_path_factory.mktemp("docs"))
    nodes = yaml.safe_load(blocks(ROOT / "docs/howto/train-many.md")[0].text)["trainings"]
    trainings = {}
    for name, node in nodes.items():
        own = {key: value for key, value in node.items() if key != "preset"}
        network = {"student": {"model": NETWORKS[name]}} if name in NETWORKS else {}
        trainings[name] = {**RECIPE, **network, **own}
    settings = {k: v for k, v in mini.settings().items() if k not in ("train", "finetune", "baseline")}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "trainings": trainings}, sort_keys=False))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_runs(page: Path, docs_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docs_world)
    for words in commands(page, "sh"):
        verb(*words[1:])


@pytest.mark.slow
def test_models_of_any_training_can_be_exported(docs_world: Path, tmp_path: Path) -> None:
    """Also of one that the config no longer names."""
    import json

    config = docs_world / "config.yaml"
    verb("run", config)
    verb("export", config, "large", "--out", tmp_path / "large", "--format", "pt2")
    told = json.loads((tmp_path / "large" / "provenance.json").read_text())
    assert told["teacher"] == {"model": "timm:test_efficientnet", "licence": None}
    assert told["settings"]["config"]["student"]["model"] == "timm:test_resnet"
    assert set(told["settings"]["artifacts"]) == {"resnet_tuned"}
    assert (told["figures"]["num_processes"], told["figures"]["device"]) == (1, "cpu")

    settings = yaml.safe_load(config.read_text())
    del settings["trainings"]["small"]
    (docs_world / "fewer.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert "small" not in load_config(docs_world / "fewer.yaml").nodes
    verb("export", docs_world / "fewer.yaml", "small", "--out", tmp_path / "small", "--format", "pt2")
    assert (tmp_path / "small" / "model.pt2").stat().st_size > 100_000
