"""The published contracts: equal to the code, complete, and true of real config files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import mini
import pytest
import yaml

from ssld_pipeline import schemas
from ssld_pipeline.config.load import load_config
from ssld_pipeline.contracts import TABLES
from ssld_pipeline.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted([*(ROOT / "jobs" / "configs").glob("*.yaml"), *(ROOT / "ssld_pipeline" / "demo").glob("*.yaml")])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return schemas.config_schema()


def test_published_files_say_what_the_code_says() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "schemas").iterdir()}
    written = {name: schemas.text(content) for name, content in schemas.published().items()}
    assert found == written, "run: python -m ssld_pipeline.schemas"


def test_writing_removes_what_is_no_longer_published(tmp_path: Path) -> None:
    (tmp_path / "a_table_of_old.json").write_text("{}")
    schemas.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == schemas.published().keys()


def test_every_config_key_at_every_depth_has_a_meaning(schema: dict[str, Any]) -> None:
    keys = [
        (name, key, content.get("description", ""))
        for name, section in {"": schema, **schema["$defs"]}.items()
        for key, content in section["properties"].items()
    ]
    assert len(keys) > 80
    assert not [(name, key) for name, key, meaning in keys if not meaning.strip()]


def test_every_column_and_table_has_a_meaning() -> None:
    tables = {name: content for name, content in schemas.published().items() if name != schemas.CONFIG_FILE}
    assert set(tables) == {f"{name}.json" for name in TABLES}
    for name, table in tables.items():
        columns = [column["name"] for column in table["columns"]]
        assert table["row"], name
        assert not [c["name"] for c in table["columns"] if not c["meaning"].strip()], name
        assert set(table["key"]) <= set(columns), name
        assert len(set(columns)) == len(columns), name


def test_schema_is_valid_json_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_schema_accepts_the_configs_that_come_along(schema: dict[str, Any], path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


LISTED = {"uri": "a", "format": "tar"}
ACCEPTED = [
    {},
    {"inputs": {**mini.settings()["inputs"], "pool": [{**LISTED, "name": "one"}, {**LISTED, "name": "two"}]}},
    {"finetune": None, "baseline": None},
    {"finetune": {}, "baseline": {"steps": 5}},
    {"teacher": {**mini.settings()["teacher"], "fit": {"data": LISTED, "epochs": 0.5}}},
    {"trainings": {"small": {"preset": "resnet50_vd/stage1", "teacher": "train"}, "plain": {"loss": "ce"}}},
    {"trainings": {"two": {"objective": ["js", {"term": "hard_ce", "weight": 0.5}]}}},
]
REFUSED = [
    {"trian": {}},
    {"finetune": {"epoch": 3}},
    {"train": {"loss": "mse"}},
    {"train": {"lr": 0}},
    {"trainings": {"one": {"objective": [{"term": "symetric_kl"}]}}},
    {"trainings": {"one": {"objective": [{"term": "js", "beta": 1}]}}},
    {"trainings": {"one": {"init_": "train"}}},
    {"select": {"per_class": 1.5}},
    {"inputs": {"pool": {"uri": "a"}}},
    {"inputs": {"pool": [{"uri": "a", "format": "zip"}]}},
    {"teacher": {"model": "timm:resnet18", "weights": None, "mean": [0.5, 0.5]}},
    {"workspace": None},
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_schema_and_loader_accept(schema: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    path = mini.write_config(tmp_path, **changes)
    load_config(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_schema_and_loader_refuse(schema: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    path = mini.write_config(tmp_path, **changes)
    with pytest.raises(UserError):
        load_config(path)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_inherited_sections_promise_no_default_of_their_own(schema: dict[str, Any]) -> None:
    """`finetune.epochs` is what `train.epochs` is; a default in the schema would tell an editor otherwise."""
    for section in ("finetune", "baseline"):
        reference = schema["properties"][section]["anyOf"][0]["$ref"].rsplit("/", 1)[-1]
        inherited, own = (schema["$defs"][name]["properties"] for name in (reference, "TrainingConfig"))
        assert inherited.keys() == own.keys()
        assert not [key for key, content in inherited.items() if "default" in content]
