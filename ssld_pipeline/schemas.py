"""What ``schemas/`` holds: the config file's JSON Schema and every table's columns, derived from the code.

``python -m ssld_pipeline.schemas`` writes the folder anew; a test keeps both equal. Editors complete and check a
config that names ``config.schema.json`` in its first line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.config.training import LOSSES
from ssld_pipeline.contracts import TABLES
from ssld_pipeline.terms.registry import TERMS

CONFIG_FILE = "config.schema.json"
_FOLDER = Path(__file__).resolve().parent.parent / "schemas"


def published() -> dict[str, dict[str, Any]]:
    """File name -> its JSON content."""
    return {CONFIG_FILE: config_schema(), **{f"{name}.json": table.published() for name, table in TABLES.items()}}


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config file as a person writes it: before lists are made and settings inherited."""
    schema = RunConfig.model_json_schema()
    node = schema["$defs"]["TrainingConfig"]
    node["properties"] |= {
        "loss": {"enum": list(LOSSES), "description": "Short form of an objective of one term."},
        "temperature": {"type": "number", "exclusiveMinimum": 0, "description": "Of the term that `loss` names."},
    }
    node["properties"]["objective"]["items"] = {"anyOf": [{"type": "string"}, *_terms(schema)]}
    for section in ("finetune", "baseline"):
        _inherit(schema, section, "TrainingConfig")
    for name in ("image_size", "crop_pct"):  # where absent, the teacher's own
        del schema["$defs"]["FitConfig"]["properties"][name]["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A run of ssld_pipeline"}


def _terms(schema: dict[str, Any]) -> list[dict[str, str]]:
    """References to the terms of an objective, each of which becomes a definition."""
    for term in TERMS.values():
        own = term.model_json_schema()
        own["properties"]["term"]["description"] = "Its name."
        schema["$defs"][term.__name__] = {**own, "required": ["term"]}
    return [{"$ref": f"#/$defs/{term.__name__}"} for term in TERMS.values()]


def _inherit(schema: dict[str, Any], section: str, parent: str) -> None:
    """The section has the parent's keys and none of its defaults: what is absent is inherited from ``train``."""
    name = f"Inherited{parent}"
    whole = schema["$defs"][parent]
    keys = {key: {k: v for k, v in content.items() if k != "default"} for key, content in whole["properties"].items()}
    schema["$defs"][name] = {**whole, "title": name, "properties": keys}
    schema["properties"][section]["anyOf"] = [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]


def text(content: dict[str, Any]) -> str:
    """The bytes of a published file, as text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = _FOLDER) -> list[Path]:
    """The files written; those of tables that are no more are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = published()
    for stale in set(folder.glob("*.json")) - {folder / name for name in contents}:
        stale.unlink()
    for name, content in contents.items():
        (folder / name).write_text(text(content), encoding="utf-8")
    return [folder / name for name in contents]


if __name__ == "__main__":
    for path in write():
        print(path)
