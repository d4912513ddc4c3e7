"""Inputs whose labels mean no class of the run, or perhaps another one, are refused before anything is made of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mini
import pytest
import yaml

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.labels import read_counts
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.queries.status import workspace_status
from ssld_pipeline.runner.survey import class_names
from ssld_pipeline.store.workspace import Workspace

WITHOUT_CLASS = "{} images without a class"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    mini.write_inputs(tmp_path / "inputs")
    return tmp_path / "inputs"


def configured(inputs: Path, *overrides: str, **roles: Any) -> RunConfig:
    """``roles``: inputs that replace those of the small world; their uris are relative to ``inputs``."""
    path = mini.write_config(inputs.parent)
    settings = yaml.safe_load(path.read_text())
    for role, items in roles.items():
        several = [{**item, "uri": f"inputs/{item['uri']}"} for item in (items if isinstance(items, list) else [items])]
        settings["inputs"][role] = several
    path.write_text(yaml.safe_dump(settings))
    return load_config(path, overrides)


def catalogued(config: RunConfig) -> dict[str, Any]:
    """The figures that a run prints of the catalog."""
    return mini.bring(config, until="catalog")["catalog"].figures


def refused(config: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        catalogued(config)
    message = str(caught.value)
    with pytest.raises(UserError, match=re.escape(message)):  # what is committed by now changes nothing
        catalogued(config)
    with pytest.raises(UserError, match=re.escape(message)):
        mini.bring(config, only=["index_protected"])
    return message


def write_list(inputs: Path, labels: Sequence[object], role: str = "validation") -> dict[str, str]:
    """A list of all images of a role, class by class, with the label of each class."""
    lines = [
        f"{path.relative_to(inputs)} {label}\n"
        for name, label in zip(mini.CLASSES, labels, strict=True)
        for path in sorted((inputs / role / name).iterdir())
    ]
    (inputs / f"{role}.txt").write_text("".join(lines), encoding="utf-8")
    return {"uri": f"{role}.txt", "format": "list"}


def num_by_class(config: RunConfig, name: str) -> dict[int | None, int]:
    query = f"SELECT class_id, count(*) AS num FROM catalog WHERE image_id LIKE '{name}/%' GROUP BY 1"
    return {row["class_id"]: row["num"] for row in rows_of(Workspace(config.workspace), query)}


def test_a_run_whose_labels_are_known_says_nothing_of_them(inputs: Path) -> None:
    config = configured(inputs)
    assert catalogued(config) == {}
    assert [(row["input"], row["images"], row["without_class"]) for row in status(config)] == [
        ("labeled", 24, 0),
        ("protected", 12, 0),
    ]


def status(config: RunConfig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workspace_status(Workspace(config.workspace), config)["labels"]
    return found


@pytest.mark.parametrize(("role", "folder"), [("protected", "validation"), ("labeled", "train")])
def test_numbers_counted_from_1_are_refused_until_the_config_says_so(inputs: Path, role: str, folder: str) -> None:
    classes = inputs / "classes.txt"
    classes.write_text("\n".join(mini.CLASSES), encoding="utf-8")
    numbered = write_list(inputs, [1, 2, 3], folder)
    message = refused(configured(inputs, f"classes={classes}", **{role: numbered}))
    assert f"inputs.{role}" in message and f"{folder}.txt" in message
    assert "counted from 1" in message and "'labels: numbers_from_1'" in message
    config = configured(inputs, f"classes={classes}", **{role: {**numbered, "labels": "numbers_from_1"}})
    assert catalogued(config) == {}
    assert len(num_by_class(config, role)) == 3 and None not in num_by_class(config, role)


def test_numbers_that_leave_out_the_first_class_are_not_counted_from_1(inputs: Path) -> None:
    shutil.rmtree(inputs / "validation/disc")
    for k, name in enumerate(mini.CLASSES[1:], start=1):
        lines = [f"{path.relative_to(inputs)} {k}\n" for path in sorted((inputs / "validation" / name).iterdir())]
        with (inputs / "list").open("a", encoding="utf-8") as file:
            file.writelines(lines)
    config = configured(inputs, protected={"uri": "list", "format": "list"})
    assert catalogued(config) == {} and num_by_class(config, "protected") == {1: 4, 2: 4}


def test_a_protected_input_of_other_classes_is_refused_with_the_nearest_names(inputs: Path) -> None:
    for name in mini.CLASSES:
        (inputs / "validation" / name).rename(inputs / "validation" / f"{name.upper()} 1")
    message = refused(configured(inputs))
    assert "inputs.protected" in message and "none of the 12 images has a class" in message
    assert 'folder "DISC 1" of 4 images (nearest class "disc")' in message and "'labels: none'" in message
    config = configured(inputs, protected={"uri": "validation", "format": "folder", "labels": "none"})
    assert catalogued(config) == {WITHOUT_CLASS.format("protected"): 12}


def test_folders_counted_from_1_are_refused(inputs: Path) -> None:
    for number, name in enumerate(mini.CLASSES, start=1):
        (inputs / "validation" / name).rename(inputs / "validation" / str(number))
    assert "'labels: numbers_from_1'" in refused(configured(inputs))
    from_one = {"uri": "validation", "format": "folder", "labels": "numbers_from_1"}
    config = configured(inputs, protected=from_one)
    assert catalogued(config) == {} and num_by_class(config, "protected") == {0: 4, 1: 4, 2: 4}


def test_folders_that_are_read_as_numbers_are_told_of(inputs: Path) -> None:
    for number, name in enumerate(mini.CLASSES):
        (inputs / "validation" / name).rename(inputs / "validation" / str(number))
    config = configured(inputs)
    assert catalogued(config) == {"protected folders read as class numbers": 3}
    assert num_by_class(config, "protected") == {0: 4, 1: 4, 2: 4}


def test_one_folder_more_changes_what_the_others_mean(inputs: Path) -> None:
    """Folders 0, 1, 2 are the three classes only as long as there is no other."""
    for number, name in enumerate(mini.CLASSES):
        (inputs / "validation" / name).rename(inputs / "validation" / str(number))
    catalogued(config := configured(inputs))
    mini_copy(inputs / "validation/2/0.jpg", inputs / "validation/3/0.jpg")
    assert "none of the 13 images" in refused(config)


def mini_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copy2(source, target)


def test_a_flat_protected_input_guards_and_the_run_says_so(inputs: Path) -> None:
    for path in sorted((inputs / "validation").glob("*/*.jpg")):
        mini_copy(path, inputs / "flat" / f"{path.parent.name}-{path.name}")
    named = [
        {"name": "validation", "uri": "validation", "format": "folder"},
        {"name": "test", "uri": "flat", "format": "folder"},
    ]
    config = configured(inputs, protected=named)
    assert catalogued(config) == {WITHOUT_CLASS.format("test"): 12}
    assert catalogued(config) == {WITHOUT_CLASS.format("test"): 12}, "and says so again"
    assert {"input": "test", "images": 12, "with_class": 0}.items() <= status(config)[2].items()


def test_one_folder_around_all_images_is_no_label(inputs: Path) -> None:
    for path in sorted((inputs / "validation").glob("*/*.jpg")):
        mini_copy(path, inputs / "flat" / f"{path.parent.name}-{path.name}")
    (inputs / "flat").rename(inputs / "images")
    (inputs / "test").mkdir()
    (inputs / "images").rename(inputs / "test/images")
    config = configured(inputs, protected={"uri": "test", "format": "folder"})
    assert catalogued(config) == {WITHOUT_CLASS.format("protected"): 12}


@pytest.mark.parametrize("role", ["labeled", "teacher"])
def test_an_input_that_needs_labels_and_has_none_is_refused(inputs: Path, role: str) -> None:
    members = {f"{k}.jpg": mini.jpeg(mini.draw(k % 3, 900 + k)) for k in range(6)}
    mini.write_tar(inputs / "unlabelled/00001.tar", members)
    (inputs / "classes.txt").write_text("\n".join(mini.CLASSES), encoding="utf-8")
    unlabelled = {"uri": "unlabelled", "format": "tar"}
    if role == "labeled":
        config = configured(inputs, f"classes={inputs}/classes.txt", labeled=unlabelled)
    else:
        data = "{uri: inputs/unlabelled, format: tar}"
        config = configured(inputs, f"teacher.fit={{epochs: 1, lr: 0.1, batch_size: 2, data: {data}}}")
    message = refused(config)
    where = "teacher.fit.data (teacher" if role == "teacher" else "inputs.labeled (labeled"
    assert message.startswith(where) and "none of the 6 images has a class" in message and ".cls" in message


@pytest.mark.parametrize("role", ["labeled", "protected"])
def test_few_unknown_labels_are_counted_and_many_refused(inputs: Path, role: str) -> None:
    (inputs / "classes.txt").write_text("\n".join(mini.CLASSES), encoding="utf-8")
    folder = inputs / ("train" if role == "labeled" else "validation")
    for k in range(11):
        mini_copy(folder / "disc/0.jpg", folder / "disks" / f"{k}.jpg")
    options = (f"classes={inputs}/classes.txt",)
    message = refused(configured(inputs, *options))
    assert f"inputs.{role}" in message and "11 of" in message and "catalog.max_unknown_labels (0.01)" in message
    assert f'folder "disks" of 11 images (nearest class "disc"), for example {role}/disks/' in message
    assert catalogued(configured(inputs, *options, "catalog.max_unknown_labels=0.5"))
    (folder / "disks/10.jpg").unlink()
    config = configured(inputs, *options)
    assert catalogued(config) == {WITHOUT_CLASS.format(role): 10}
    rejects = rows_of(Workspace(config.workspace), "SELECT * FROM rejects WHERE reason = 'unknown_class'")
    assert sum(read_counts(row["detail"]).num_images for row in rejects) == 10
    assert all('folder "disks"' in row["detail"] and 'class "disc"' in row["detail"] for row in rejects)


def test_labels_are_needed_of_labelled_inputs() -> None:
    labeled = {"uri": "x", "format": "folder", "labels": "none"}
    settings = {**mini.settings(), "inputs": {**mini.UNUSED_INPUTS, "labeled": labeled}}
    with pytest.raises(ValueError, match="'labeled' has 'labels: none', but the run needs its labels"):
        RunConfig.model_validate(settings)


def test_a_class_that_comes_in_two_unicode_forms_is_one(inputs: Path) -> None:
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    (inputs / "train/disc").rename(inputs / "train" / composed)
    (inputs / "more").mkdir()
    mini_copy(inputs / "train/square/0.jpg", inputs / "more" / decomposed / "0.jpg")
    both = [{"name": name, "uri": name, "format": "folder"} for name in ("train", "more")]
    assert class_names(configured(inputs, labeled=both)) == (composed, "square", "stripes")
    only = [{"name": "more", "uri": "more", "format": "folder"}]
    mini_copy(inputs / "train/square/0.jpg", inputs / "more/square/0.jpg")
    assert class_names(configured(inputs, labeled=only)) == (decomposed, "square"), "as it is called"
    (inputs / "classes.txt").write_text(f"{composed}\n{decomposed}\nx\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"listed more than once .* differ in Unicode"):
        class_names(configured(inputs, f"classes={inputs}/classes.txt"))
