"""Labels of every kind are read as the class they mean, or counted and named: none is lost or moved in silence."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import bad_inputs as bad
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_inputs import JPEG, classes_of, write

from ssld_pipeline.contracts import Reject
from ssld_pipeline.inputs.label_reading import with_labels
from ssld_pipeline.inputs.labels import ClassList, Label, count_in_words, label_text, read_counts
from ssld_pipeline.inputs.listing import list_shards
from ssld_pipeline.inputs.scan import scan
from ssld_pipeline.inputs.shard import Shard

CLASSES = ("cat", "dog", "fox")


def catalogued(
    uri: Path, format: str, role: str = "protected", classes: tuple[str, ...] = CLASSES, labels: str = "auto"
) -> tuple[dict[str, int | None], list[Reject]]:
    """Path within the input -> class of all images that are kept, and the rejects."""
    shards, rejects = list_shards(role, role, str(uri), format, 100)
    kept: dict[str, int | None] = {}
    for shard in with_labels(shards, classes, labels):
        rows, found = scan(Shard.from_table(shard.to_table()), classes, 100)
        kept |= {image_id.removeprefix(f"{role}/"): c for image_id, c in classes_of(rows).items()}
        rejects = rejects + found
    return kept, rejects


def unknown(rejects: list[Reject]) -> list[str]:
    return [r.detail for r in rejects if r.reason == "unknown_class"]


def digests(uri: Path, format: str, classes: tuple[str, ...], labels: str | None) -> list[str]:
    """Of the shards; ``labels`` null: as listed, before labels are read in any way."""
    shards, _ = list_shards("protected", "protected", str(uri), format, 100)
    return [s.digest for s in (shards if labels is None else with_labels(shards, classes, labels))]


def write_parquet(path: Path, labels: pa.Array, names: Any = None, column: str = "label") -> None:
    images = pa.array([{"bytes": JPEG, "path": None}] * len(labels))
    table = pa.table({"image": images, column: labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: names}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


# Unicode


@pytest.mark.parametrize(("of_run", "of_input"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("format", ["folder", "list", "parquet", "tar"])
def test_names_match_in_either_unicode_form(tmp_path: Path, format: str, of_run: str, of_input: str) -> None:
    name = unicodedata.normalize(of_input, "Café")
    classes = ("bar", unicodedata.normalize(of_run, "Café"))
    write(tmp_path, f"folder/{name}/a.jpg", "list/a.jpg")
    (tmp_path / "list/list").write_text(f"a.jpg\t{name}\n", encoding="utf-8")
    write_parquet(tmp_path / "parquet/a.parquet", pa.array([name]))
    bad.write_tar(tmp_path / "tar/a.tar", [("a.jpg", JPEG), ("a.cls", name.encode())])
    uri = tmp_path / format / ("list" if format == "list" else "")
    kept, rejects = catalogued(uri, format, classes=classes)
    assert list(kept.values()) == [1] and rejects == []
    assert digests(uri, format, classes, "auto") != digests(uri, format, classes, None)


# Numbers


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["0", "1", "2"], [0, 1, 2]),
        (["1", "2", "3"], [None] * 3),  # counted from 1, or class 3 of a longer list
        (["0", "1"], [None] * 2),
        (["0", "1", "2", "cat"], [None, None, None, 0]),
        (["00", "01", "02"], [None] * 3),
    ],
)
def test_folders_are_numbers_of_classes_if_they_are_all_numbers(
    tmp_path: Path, folders: list[str], expected: list[int | None]
) -> None:
    write(tmp_path, *(f"{name}/a.jpg" for name in folders))
    kept, rejects = catalogued(tmp_path, "folder")
    assert [kept[f"{name}/a.jpg"] for name in folders] == expected
    assert len(unknown(rejects)) == expected.count(None)


def test_folders_that_name_classes_are_not_numbers(tmp_path: Path) -> None:
    write(tmp_path, "0/a.jpg", "1/a.jpg", "2/a.jpg")
    kept, _ = catalogued(tmp_path, "folder", classes=("2", "1", "0"))
    assert kept == {"0/a.jpg": 2, "1/a.jpg": 1, "2/a.jpg": 0}


@pytest.mark.parametrize(("labels", "expected"), [("numbers", [0, 1, None]), ("numbers_from_1", [None, 0, 1])])
def test_the_config_says_that_labels_are_numbers(tmp_path: Path, labels: str, expected: list[int | None]) -> None:
    write(tmp_path, "folder/0/a.jpg", "folder/1/a.jpg", "folder/2/a.jpg", *(f"{k}.jpg" for k in range(3)))
    (tmp_path / "list").write_text("".join(f"{k}.jpg {k}\n" for k in range(3)), encoding="utf-8")
    bad.write_tar(tmp_path / "1.tar", [("0/a.jpg", JPEG), ("1/a.jpg", JPEG), ("2/a.jpg", JPEG), ("b.jpg", JPEG)])
    for uri, format in (("folder", "folder"), ("list", "list"), ("1.tar", "tar")):
        kept, _ = catalogued(tmp_path / uri, format, classes=CLASSES[:2], labels=labels)
        assert list(kept.values())[:3] == expected
    assert kept["1.tar/b.jpg"] is None, "the number of a shard is no label"


def test_classes_that_are_called_by_numbers_are_found_by_value() -> None:
    classes = ClassList(("001", "002", "010"))
    texts = ("1", "2.0", "10", "010", "0", "3")
    assert [classes.find([Label("label", text)]) for text in texts] == [0, 1, 2, 2, None, None]
    assert classes.find([Label("folder", "1")]) is None


def test_labels_without_a_class_to_number_are_no_labels(tmp_path: Path) -> None:
    """Hugging Face numbers the images of a test split -1."""
    write_parquet(tmp_path / "a.parquet", pa.array([-1, -1]))
    kept, rejects = catalogued(tmp_path, "parquet")
    assert list(kept.values()) == [None, None] and rejects == []


# Parquet

HF_NAMES = ["fox", "cat", "dog"]
CLASS_LABEL = {"names": HF_NAMES, "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("feature", "column", "is_list"),
    [
        (CLASS_LABEL, "label", False),
        ({"names": HF_NAMES, "num_classes": 3, "_type": "ClassLabel"}, "cls", False),
        ({"feature": CLASS_LABEL, "length": 1, "_type": "Sequence"}, "label", True),
        ([CLASS_LABEL], "label", True),
        (CLASS_LABEL, "species", False),
    ],
)
def test_numbers_of_a_hugging_face_class_label_mean_its_own_names(
    tmp_path: Path, feature: Any, column: str, is_list: bool
) -> None:
    numbers = [0, 1, 2, None]
    labels = pa.array([None if n is None else [n] if is_list else n for n in numbers])
    write_parquet(tmp_path / "a.parquet", labels, feature, column)
    kept, rejects = catalogued(tmp_path, "parquet")
    assert list(kept.values()) == [2, 0, 1, None] and rejects == []
    assert digests(tmp_path, "parquet", CLASSES, "auto") != digests(tmp_path, "parquet", CLASSES, None)


def test_names_of_a_class_label_that_are_other_classes_are_not_taken_for_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", pa.array([0, 1]), {"names": ["Felis", "Foxes"], "_type": "ClassLabel"})
    kept, rejects = catalogued(tmp_path, "parquet")
    assert list(kept.values()) == [None, None]
    assert 'label "Felis"' in unknown(rejects)[0] and 'label "Foxes" (nearest class "fox")' in unknown(rejects)[0]
    kept, rejects = catalogued(tmp_path, "parquet", labels="numbers")
    assert list(kept.values()) == [0, 1] and rejects == []


@pytest.mark.parametrize("column", ["label", "Label", "target", "labels"])
def test_a_label_column_may_have_another_name(tmp_path: Path, column: str) -> None:
    write_parquet(tmp_path / "a.parquet", pa.array([1, 0]), column=column)
    kept, _ = catalogued(tmp_path, "parquet")
    assert list(kept.values()) == [1, 0]
    is_known = digests(tmp_path, "parquet", CLASSES, "auto") == digests(tmp_path, "parquet", CLASSES, None)
    assert is_known == (column == "label"), "what was read before keeps its digest"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([1.0, None, 2.0, float("nan")]), [1, None, 2, None]),
        (pa.array([b"cat", b"fox"]), [0, 2]),
        (pa.array([[1], [0]]), [1, 0]),
        (pa.array([" dog\n", "cat"]), [1, 0]),
        (pa.array([2, 1], pa.int8()), [2, 1]),
    ],
)
def test_a_label_column_may_have_any_type(tmp_path: Path, labels: pa.Array, expected: list[int | None]) -> None:
    write_parquet(tmp_path / "a.parquet", labels)
    kept, rejects = catalogued(tmp_path, "parquet")
    assert list(kept.values()) == expected and rejects == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        ([1], "1"),
        ([2.0], "2"),
        ("", None),
        (None, None),
        (1.5, "1.5"),
        ([0, 1], "[0, 1]"),
        (True, "True"),
        ("\ud800", "?"),
    ],
)
def test_a_json_label_is_the_text_it_means(value: object, text: str | None) -> None:
    assert label_text(value) == text


def test_json_labels_of_a_webdataset(tmp_path: Path) -> None:
    values = {"a": 1.0, "b": [2], "c": "dog", "d": [0, 1], "e": None}
    members = [(f"{key}.jpg", JPEG) for key in values]
    members += [(f"{key}.json", json.dumps({"label": value}).encode()) for key, value in values.items()]
    bad.write_tar(tmp_path / "s.tar", members)
    kept, rejects = catalogued(tmp_path / "s.tar", "tar")
    assert kept == {"s.tar/a.jpg": 1, "s.tar/b.jpg": 2, "s.tar/c.jpg": 1, "s.tar/d.jpg": None, "s.tar/e.jpg": None}
    assert len(unknown(rejects)) == 1 and 'label "[0, 1]"' in unknown(rejects)[0]


# Lists


def test_a_label_that_is_no_utf8_names_no_class(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "list").write_bytes(b"a.jpg\tcaf\xe9\n")
    kept, rejects = catalogued(tmp_path / "list", "list")
    assert kept == {"a.jpg": None} and "caf\ufffd" in unknown(rejects)[0]


# Labels that name no class


def test_a_labelled_image_of_no_class_is_a_reject_with_the_nearest_class(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.jpg", "Dogs/b.jpg", "c.jpg")
    _, rejects = catalogued(tmp_path, "folder", "labeled")
    assert {r.image_id: r.detail for r in rejects} == {
        "labeled/Dogs/b.jpg": 'folder "Dogs" names no class of the run (nearest class "dog")',
        "labeled/c.jpg": "no label",
    }


def test_protected_images_of_no_class_are_kept_and_counted(tmp_path: Path) -> None:
    members = [("a.jpg", "cat"), ("b.jpg", "cats"), ("c.jpg", "cats"), ("d.jpg", "3"), ("e.jpg", None)]
    write(tmp_path, *(name for name, _ in members))
    lines = [name if label is None else f"{name}\t{label}" for name, label in members]
    (tmp_path / "list").write_text("\n".join(lines), encoding="utf-8")
    kept, rejects = catalogued(tmp_path / "list", "list")
    assert kept == {"a.jpg": 0, "b.jpg": None, "c.jpg": None, "d.jpg": None, "e.jpg": None}
    assert unknown(rejects) == [
        '3 images have a label that names no class of the run: 1 of label "3" (numbers of classes are 0 to 2), '
        '2 of label "cats" (nearest class "cat"); for example protected/d.jpg'
    ]


def test_the_counts_of_a_reject_are_read_back() -> None:
    classes = ClassList(CLASSES)
    awkward = {
        Label("label", 'a "b" 3 of label "x", (c)'): ["i/1", "i/2"],
        Label("folder", "é\\"): ["i/; for example x"],
    }
    counts = read_counts(count_in_words(awkward, classes))
    assert counts == (3, {label: len(ids) for label, ids in awkward.items()}, "i/1")
    assert read_counts(classes.says(Label("folder", "gown"))).by_label == {Label("folder", "gown"): 1}
    assert read_counts("no label") == (1, {}, "")
    many = {Label("label", str(k)): [f"i/{k}"] * (k != 3) + [f"j/{k}"] for k in range(3, 60)}
    assert read_counts(count_in_words(many, classes)).by_label[Label("label", "3")] == 1
    assert read_counts(count_in_words(many, classes)).num_images == sum(map(len, many.values()))


def test_a_tar_per_class_that_is_called_otherwise_is_counted_where_others_are_classes(tmp_path: Path) -> None:
    for name in ("cat", "dogs"):
        bad.write_tar(tmp_path / f"{name}.tar", [("a.jpg", JPEG)])
    kept, rejects = catalogued(tmp_path, "tar")
    assert kept == {"cat.tar/a.jpg": 0, "dogs.tar/a.jpg": None}
    assert 'archive "dogs" (nearest class "dog")' in unknown(rejects)[0]
    (tmp_path / "cat.tar").rename(tmp_path / "00000.tar")
    assert catalogued(tmp_path, "tar")[1] == [], "shards of any name, and no label"


def test_no_label_is_read_of_the_pool(tmp_path: Path) -> None:
    write(tmp_path, "0/a.jpg", "1/b.jpg", "2/b.jpg")
    for labels in ("auto", "numbers"):
        kept, rejects = catalogued(tmp_path, "folder", "pool", labels=labels)
        assert set(kept.values()) == {None} and rejects == []


def test_an_input_that_is_not_labelled_has_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.jpg", "00/b.jpg")
    assert catalogued(tmp_path, "folder", labels="none") == ({"cat/a.jpg": None, "00/b.jpg": None}, [])


# What was catalogued before


@pytest.mark.parametrize("format", ["folder", "list", "parquet", "tar"])
def test_what_is_labelled_by_names_or_numbers_from_0_keeps_its_digest(tmp_path: Path, format: str) -> None:
    write(tmp_path, "folder/cat/a.jpg", "folder/dog/b.jpg", "folder/c.jpg", "list/a.jpg", "list/b.jpg")
    (tmp_path / "list/list").write_text("a.jpg 1\nb.jpg dog\n", encoding="utf-8")
    write_parquet(tmp_path / "parquet/a.parquet", pa.array([0, 1]), {"names": list(CLASSES), "_type": "ClassLabel"})
    bad.write_tar(tmp_path / "tar/cat.tar", [("a.jpg", JPEG)])
    uri = tmp_path / format / ("list" if format == "list" else "")
    assert digests(uri, format, CLASSES, "auto") == digests(uri, format, CLASSES, None)
