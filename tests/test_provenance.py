"""Who labelled, and with which class list: what a table says of itself, and what refuses to go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mini
import pytest
import yaml
from deltalake import DeltaTable
from test_run import bring, no_engine, planned, ran
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.store.fingerprints import digest, digest_file
from ssld_pipeline.store.workspace import Workspace


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to select has run, with two teachers and a list of classes."""
    folder = tmp_path_factory.mktemp("done") / "runs"
    mini.write_world(folder)
    mini.write_teacher(folder / "other.safetensors", seed=1)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in mini.CLASSES))
    (folder / "map.txt").write_text("".join(f"{i}, {name}\n" for i, name in enumerate(mini.CLASSES)))
    first = mini.settings()["teacher"]
    other = {"model": "timm:test_resnet", "weights": "other.safetensors", "image_size": 48, "class_map": "map.txt"}
    teacher = {**first, "licence": "MIT", "more": [{**other, "licence": "CC-BY-NC-4.0", "weight": 2}]}
    bring(load_config(mini.write_config(folder, teacher=teacher, classes="classes.txt")), until="select")
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


def ssld(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words), catch_exceptions=True)
    return (2, str(done.exception)) if isinstance(done.exception, UserError) else (done.exit_code, done.output)


def assert_tells_the_teacher(note: dict, folder: Path) -> None:
    first, second = note["networks"]
    assert first["model"] == "timm:test_resnet"
    assert (first["licence"], second["licence"]) == ("MIT", "CC-BY-NC-4.0")
    assert (first["weights"], second["weights"]) == tuple(
        digest_file(str(folder / f"{name}.safetensors")) for name in ("teacher", "other")
    )
    assert (first["class_map"], second["class_map"]) == (None, digest_file(str(folder / "map.txt")))
    assert (first["image_size"], second["image_size"], second["weight"]) == (32, 48, 2)
    assert first["mean"] == [0.485, 0.456, 0.406]
    assert note["classes"] == {"count": 3, "digest": digest(list(mini.CLASSES))}
    assert not note["fitted"]


def test_readers_of_the_table_see_who_labelled(folder):
    table = DeltaTable(str(folder / "workspace" / "soft_labels"))
    assert_tells_the_teacher(json.loads(table.metadata().configuration["ssld.teacher"]), folder)
    commits = [c for c in table.history() if c.get("ssld.stage") == "label"]
    assert commits
    assert_tells_the_teacher(json.loads(commits[0]["ssld.teacher"]), folder)
    store = Workspace(str(folder / "workspace")).tables["soft_labels"]
    for part in store.parts().values():
        assert_tells_the_teacher(store.notes_of(part)["teacher"], folder)
    assert table.to_pyarrow_table().num_rows == 24


def test_a_licence_changes_no_label_but_is_told(folder):
    config = load_config(folder / "config.yaml", ("teacher.licence=Apache-2.0",))
    assert run_pipeline(survey(config), no_engine, mini.Silent(), until="label")
    note = json.loads(DeltaTable(str(folder / "workspace" / "soft_labels")).metadata().configuration["ssld.teacher"])
    assert note["networks"][0]["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("teacher.more.0.weight", "3", "config.more"),
        ("teacher.combine", "geometric", 'config.combine: "arithmetic" -> "geometric"'),
        ("teacher.temperature", "2.0", "config.temperature: absent -> 2.0"),
    ],
)
def test_plan_names_what_changed_of_the_teacher(folder, key, value, changed):
    plan = planned(load_config(folder / "config.yaml", (f"{key}={value}",)))["label"]
    assert plan.of("run")
    assert changed in plan.reasons()[0][0]


@pytest.mark.parametrize(
    ("name", "changed"),
    [("map.txt", "weights.teacher.more.0.class_map"), ("other.safetensors", "weights.teacher.more.0.weights")],
)
def test_files_of_further_teachers_count_by_content(folder, name, changed):
    (folder / name).rename(folder / f"moved-{name}")
    text = (folder / "config.yaml").read_text().replace(name, f"moved-{name}")
    (folder / "config.yaml").write_text(text)
    assert not planned(load_config(folder / "config.yaml"))["label"].changes
    if name == "map.txt":
        (folder / "moved-map.txt").write_text("0, square\n1, disc\n2, stripes\n")
    else:
        mini.write_teacher(folder / "moved-other.safetensors", seed=2)
    assert changed in planned(load_config(folder / "config.yaml"))["label"].reasons()[0][0]


def test_a_class_list_as_windows_editors_write_it(folder):
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*mini.CLASSES, "", ""]).encode())
    assert not planned(load_config(folder / "config.yaml"))["label"].changes


def test_an_empty_line_of_the_class_list_is_refused(folder):
    (folder / "classes.txt").write_text("disc\n\nsquare\nstripes\n")
    with pytest.raises(UserError, match=r"line 2 of .*classes.txt is empty"):
        planned(load_config(folder / "config.yaml"))


def swap_two_classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("disc\nstripes\nsquare\n")


def test_a_moved_line_of_the_class_list_is_refused(folder):
    swap_two_classes(folder)
    config = str(folder / "config.yaml")
    text = r"first that differs is class 1: 'square' -> 'stripes'"
    old, new = digest(list(mini.CLASSES)), digest(["disc", "stripes", "square"])
    for command in (
        ["run", config],
        ["run", config, "--only", "train"],
        ["select", config],
        ["select-sweep", config],
        ["submit", config, "--address", "http://127.0.0.1:1"],
        ["export", config, "manifest", "--out", str(folder / "m.csv")],
    ):
        code, said = ssld(*command)
        assert code == 2, command
        assert text in said and old in said and new in said and "--new-classes" in said
    code, said = ssld("plan", config)
    assert code == 0
    assert "--new-classes" in " ".join(said.split())
    assert not any(ran(bring_old(folder)).values()), "nothing was touched, and the kept list is one to go back to"


def bring_old(folder: Path):
    kept = folder / "workspace" / "classes" / f"{digest(list(mini.CLASSES))}.txt"
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["classes"] = str(kept)
    (folder / "old.yaml").write_text(yaml.safe_dump(settings))
    return bring(load_config(folder / "old.yaml"), until="select")


def test_new_classes_are_accepted_once_and_a_killed_run_goes_on(folder, monkeypatch):
    swap_two_classes(folder)
    config = load_config(folder / "config.yaml")
    with pytest.raises(RuntimeError, match="killed"):
        run_pipeline(survey(config), _killed, mini.Silent(), until="label", new_classes=True)
    with pytest.raises(UserError, match="--new-classes"):  # what is read must be of one list
        ssld_raises("select-sweep", str(folder / "config.yaml"))
    assert ran(bring(config, until="select"))["label"] > 1
    assert not planned(config)["label"].changes
    assert ssld("select-sweep", str(folder / "config.yaml"))[0] == 0
    code, said = ssld("diff", str(folder / "config.yaml"), "manifest", "--from", "0")
    assert code == 2 and "different class lists" in said and digest(["disc", "stripes", "square"]) in said


def _killed():
    raise RuntimeError("killed")


def ssld_raises(*words: str) -> None:
    code, said = ssld(*words)
    if code:
        raise UserError(said)


def test_a_longer_class_list_names_the_counts(folder):
    with (folder / "classes.txt").open("a") as file:
        file.write("triangle\n")
    with pytest.raises(UserError, match=r"3 classes .* -> 4 classes .* class 3: none -> 'triangle'"):
        bring(load_config(folder / "config.yaml"))
