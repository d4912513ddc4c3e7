"""The verbs as a user types them: what they print, what they exit with, and that the README speaks of no others."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mini
import pytest
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.errors import UserError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def ssld(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ssld_pipeline", *map(str, words)], capture_output=True, text=True, timeout=300
    )


def verb(*words: str | Path) -> str:
    """What a verb prints, run in this process; fails when it does."""
    result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def config(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a world in which everything has run, the student finetuned at a size of its own."""
    folder = mini.copy_world(finished_world, tmp_path_factory.mktemp("cli"))
    path = mini.write_config(folder, finetune={"epochs": 1, "lr": 0.01, "image_size": 48})
    assert "parts run" in verb("run", path)
    return path


def test_run_again_reuses_everything(config: Path) -> None:
    lines = [line for line in verb("run", config).splitlines() if "parts run" in line]
    assert lines and all("parts run 0" in line for line in lines)


def test_plan_json_has_one_object_per_stage_with_parts_and_reasons(config: Path) -> None:
    from ssld_pipeline.config.load import load_config
    from ssld_pipeline.pipeline import stages

    plans = json.loads(verb("plan", config, "--json", "--set", "select.per_class=3"))
    assert [s["stage"] for s in plans] == [stage.name for stage in stages(load_config(config))]
    select = next(s for s in plans if s["stage"] == "select")
    assert select["parts"] == [{"part": "select", "action": "run", "reasons": ["config.per_class: 6 -> 3"]}]


def test_plan_starts_no_ray_and_is_quick_to_load(config: Path) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from ssld_pipeline.cli import app
assert CliRunner().invoke(app, ["plan", {str(config)!r}]).exit_code == 0
heavy = {{"ray", "torch", "cv2", "faiss", "timm", "torchvision"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_status_inspect_sql(config: Path) -> None:
    found = json.loads(verb("status", config, "--json"))
    assert found["tables"]["soft_labels"]["rows"] == 24 and found["artifacts"]["train"]["steps"] > 0
    assert "soft_labels" in verb("status", config)
    assert "entropy of the full distribution" in verb("inspect", config, "soft_labels")
    best = json.loads(verb("inspect", config, "manifest", "--class", "0", "--json"))["manifest"]
    assert {row["class_id"] for row in best} == {0} and best[0]["rank"] in (1, None)
    about = json.loads(verb("inspect", config, "catalog", "--image", "pool/pool-0.tar/copy.jpg", "--json"))
    assert about["duplicates"][0]["is_duplicate"] and "soft_labels" not in about
    assert json.loads(verb("sql", config, "SELECT count(*) AS n FROM catalog", "--json")) == [{"n": 62}]


def test_verify_judges_a_manifest_by_what_it_was_made_with(config: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(config.parent, tmp_path)
    verb("select", folder / "config.yaml", "--set", "select.per_class=9")
    assert "BROKEN" not in verb("verify", folder / "config.yaml")


def test_verify_exits_1_on_a_broken_law(config: Path, tmp_path: Path) -> None:
    import shutil

    from ssld_pipeline.config.load import load_config
    from ssld_pipeline.store.workspace import Workspace

    assert "BROKEN" not in verb("verify", config)
    folder = shutil.copytree(config.parent, tmp_path / "copy", copy_function=shutil.copy2)
    table = Workspace(load_config(folder / "config.yaml").workspace).tables["duplicates"]
    part = next(p for p in table.parts().values() if p.num_rows)
    table.commit([table.write(table.read(part).slice(0, 0), {"part": part.name}, part.fingerprint, {}, {})], [part])
    broken = ssld("verify", folder / "config.yaml")
    assert broken.returncode == 1 and "BROKEN pool_complete" in broken.stdout and "copy.jpg" in broken.stdout


def test_report_is_one_page(config: Path) -> None:
    page = Path(verb("report", config).strip())
    text = page.read_text(encoding="utf-8")
    assert page == config.parent / "workspace" / "report.html" and "pool/pool-0.tar/copy.jpg" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text), "nothing outside itself"


def test_export_of_tables_and_models(config: Path, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    verb("export", config, "duplicates", "--format", "csv", "--out", tmp_path / "removed.csv")
    with (tmp_path / "removed.csv").open() as file:
        assert {row["image_id"] for row in csv.DictReader(file)} == {
            "pool/pool-0.tar/copy.jpg",
            "pool/pool-1.tar/copy.jpg",
        }
    verb("export", config, "finetune", "--out", tmp_path / "student", "--format", "pt2")
    model = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    exported = torch.export.load(tmp_path / "student" / "model.pt2").module()
    images = torch.rand(3, 3, 48, 48)
    assert torch.allclose(model(images), exported(images), atol=1e-4)
    made = load_file(config.parent / "workspace/models/finetune/student.safetensors")
    assert any("running_mean" in key for key in made), "batch norm's statistics travel along"


@pytest.mark.parametrize(
    ("model", "teacher"),
    [("train", {"model": "timm:test_resnet", "licence": None}), ("baseline", None)],
)
def test_an_export_says_what_the_model_was_made_with_and_not_what_would_be_used_today(
    config: Path, tmp_path: Path, model: str, teacher: Any
) -> None:
    today = ("teacher.model=timm:test_vit", "teacher.licence=MIT", "student.model=timm:test_resnet")
    changes = [word for change in today for word in ("--set", change)]
    verb("export", config, model, "--out", tmp_path, "--format", "pt2", *changes)
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["teacher"] == teacher and provenance["figures"]["images_per_norm"] == 8
    assert provenance["settings"]["config"]["student"]["model"] == "timm:test_efficientnet"


def test_evaluate_prints_every_model(config: Path) -> None:
    rows = json.loads(verb("evaluate", config, "--json"))
    assert {row["model"] for row in rows} == {"teacher", "baseline", "train", "finetune"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "{config}", "--set", "select.per_clas=3"), "did you mean 'per_class'"),
        (("run", "{config}", "--set", "train.epochs=many"), "train.epochs"),
        (("run", "{config}", "--set", "nonsense"), "key=value"),
        (("run", "{config}", "--only", "lable"), "no such stage"),
        (("run", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("run",), "CONFIG"),
        (("frobnicate",), "frobnicate"),
        (("inspect", "{config}", "soft_label"), "no such table"),
        (("inspect", "{config}", "rejects", "--class", "1"), "no class"),
        (("inspect", "{config}", "catalog", "--image", "pool/none.jpg"), "pool/none.jpg"),
        (("sql", "{config}", "SELEC 1"), "SELEC"),
        (("export", "{config}", "studnt", "--out", "x"), "neither a model"),
        (("export", "{config}", "manifest", "--out", "x", "--format", "xls"), "csv or parquet"),
        (("fit-teacher", "{config}"), "no section teacher.fit"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(config: Path, words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, [w.format(config=config) for w in words])
    if isinstance(result.exception, UserError):
        assert message in str(result.exception)
    else:
        assert result.exit_code == 2 and message in result.output


def test_a_mistake_shows_no_traceback_and_a_bug_does(config: Path) -> None:
    mistake = ssld("run", config, "--only", "lable")
    assert mistake.returncode == 2 and mistake.stderr.startswith("ssld: ") and "Traceback" not in mistake.stderr
    code = """
import sys
import ssld_pipeline.cli as cli
cli._load = lambda *arguments: 1 / 0
sys.argv = ["ssld", "status", "x"]
cli.main()
"""
    bug = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert bug.returncode == 1 and "ZeroDivisionError" in bug.stderr


def commands_of_readme() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize("words", commands_of_readme(), ids=" ".join)
def test_the_readme_names_only_what_exists(words: list[str], config: Path, tmp_path: Path) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    assert words[0] == "ssld"
    if words[1] in ("submit", "plan"):  # run for real in test_ray_engine, and above
        from ssld_pipeline.config.load import load_config

        assert load_config(ROOT / words[2])
        return
    replaced = {
        "CONFIG": str(config),
        "pool/pool-000.tar/0007.jpg": "pool/pool-0.tar/007.jpg",
        "3": "1",
        "student/": str(tmp_path / "student"),
        "shards/": str(tmp_path / "shards"),
        **{name: str(tmp_path / name) for name in ("manifest.csv", "removals.csv", "duplicates.csv")},
    }
    verb(*[replaced.get(word, word) for word in words[1:]])


def test_every_verb_is_in_the_readme() -> None:
    named = {words[1] for words in commands_of_readme() if words[0] == "ssld"}
    listed = set(re.findall(r"`ssld ([a-z-]+)", README)) | named
    known = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert known <= listed, known - listed
