"""The teacher on drawn images: label, check_teacher, and what both share."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import mini
import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from scipy.stats import entropy

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, REJECT_REASONS, SOFT_LABELS
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.images import decode, evaluation_view
from ssld_pipeline.kernels.soft_label import ROUNDING_STEP
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.stages import check_teacher, label
from ssld_pipeline.stages.hold_out import labelled_rows, sample
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.teacher import teacher_spec

NUM_CLASSES = 6
SIZE_PX = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(37):
        height, width = rng.integers(70, 130, 2)
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(small, (int(width), int(height))))
    return folder


@pytest.fixture(scope="module")
def teacher(folder, tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A network with random weights whose classifier is scaled so that classes differ between the images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=NUM_CLASSES).eval()
    with torch.no_grad():
        logits = torch.cat([model(view_of(path)) for path in folder.iterdir()])
        head = model.get_classifier()
        head.bias.sub_(logits.mean(0)).mul_(2 / logits.std())
        head.weight.mul_(2 / logits.std())
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    save_weights(model, path)
    return model, path


def catalog(folder: Path, role: str = "pool", class_of=lambda number: None) -> pa.Table:
    rows = [
        {
            "image_id": f"{role}/{path.name}",
            "role": role,
            "uri": str(path),
            "offset": 0,
            "class_id": class_of(number),
            "size_bytes": path.stat().st_size,
            "stamp": "",
            "part": f"{role}/{folder.name}#0",
        }
        for number, path in enumerate(sorted(folder.iterdir()))
    ]
    return pa.Table.from_pylist(rows, schema=CATALOG.schema())


def setup_for(weights: Path | None, artifacts: dict[str, Path] | None = None, **sections) -> Setup:
    teacher = {
        "model": "timm:test_resnet",
        "weights": weights and str(weights),
        "image_size": SIZE_PX,
        "crop_pct": 0.8,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        **sections.pop("teacher", {}),
    }
    config = RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": mini.UNUSED_INPUTS,
            "student": {"model": "timm:test_resnet"},
            "label": {"num_kept": 3},
            "teacher": teacher,
            **sections,
        }
    )
    return Setup(config, tuple("abcdef"), artifacts or {})


def view_of(path: Path) -> torch.Tensor:
    """What the network should be given, made the plain way: one image, contiguous."""
    view = evaluation_view(decode(path.read_bytes()).pixels, SIZE_PX, 0.8)
    return (torch.tensor(view).permute(2, 0, 1)[None] / 255.0 - 0.5) / 0.25


def oracle(model: torch.nn.Module, path: Path) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(model(view_of(path)), dim=1)[0].double().numpy()


def by_id(table: pa.Table) -> dict[str, dict]:
    return {row["image_id"]: row for row in table.to_pylist()}


def test_labels_are_the_teachers_probabilities(teacher, folder):
    model, weights = teacher
    result = label.STAGE.open(setup_for(weights))(catalog(folder))
    assert not result.rejects
    assert result.rows.schema.equals(pa.schema(list(SOFT_LABELS.schema())[:-1]))
    labels = by_id(result.rows)
    assert len(labels) == 37
    assert len({row["top1_class"] for row in labels.values()}) > 1
    for path in folder.iterdir():
        row, probs = labels[f"pool/{path.name}"], oracle(model, path)
        assert row["class_ids"] == np.argsort(-probs, kind="stable")[:3].tolist()
        assert row["top1_class"] == probs.argmax()
        np.testing.assert_allclose(row["probs"], np.sort(probs)[:-4:-1], rtol=ROUNDING_STEP + 1e-4, atol=1e-6)
        assert row["top1_prob"] == pytest.approx(probs.max(), rel=1e-4)
        assert row["entropy"] == pytest.approx(entropy(probs), rel=1e-3, abs=1e-5)
        assert row["tail_prob"] == pytest.approx(np.sort(probs)[:-3].sum(), abs=1e-6)
        assert (row["view"], row["flipped"]) == (0, False)


def test_the_crop_is_the_central_square_of_the_source(teacher, folder):
    rows = label.STAGE.open(setup_for(teacher[1]))(catalog(folder)).rows
    for image_id, row in by_id(rows).items():
        height, width = cv2.imread(str(folder / Path(image_id).name)).shape[:2]
        assert row["crop_width"] == pytest.approx(0.8 * min(width, height), rel=0.02)
        assert row["crop_height"] == pytest.approx(0.8 * min(width, height), rel=0.02)
        assert row["crop_left"] + row["crop_width"] / 2 == pytest.approx(width / 2, abs=1.5)
        assert row["crop_top"] + row["crop_height"] / 2 == pytest.approx(height / 2, abs=1.5)


def test_labels_do_not_depend_on_batch_order_or_threads(teacher, folder):
    rows = catalog(folder)
    reference = by_id(label.STAGE.open(setup_for(teacher[1]))(rows).rows)
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    placement = {"loader_threads": 5, "label_batch_size": 5}
    again = by_id(label.STAGE.open(setup_for(teacher[1], placement=placement))(shuffled).rows)
    assert again.keys() == reference.keys()
    for image_id, row in reference.items():
        assert again[image_id]["class_ids"] == row["class_ids"]
        assert again[image_id]["top1_prob"] == pytest.approx(row["top1_prob"], abs=1e-5)
        np.testing.assert_allclose(again[image_id]["probs"], row["probs"], rtol=ROUNDING_STEP + 1e-5, atol=1e-5)


def test_bad_images_are_counted_and_stop_nothing(teacher, folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    picture = next(folder.iterdir()).read_bytes()
    (images / "a_good.png").write_bytes(picture)
    (images / "b_empty.png").write_bytes(b"")
    (images / "c_text.jpg").write_bytes(b"this is no picture")
    (images / "d_cut.png").write_bytes(picture[: len(picture) // 2])
    (images / "e_gone.png").write_bytes(picture)
    (images / "f_good.png").write_bytes(picture)
    rows = catalog(images)
    (images / "e_gone.png").unlink()
    result = label.STAGE.open(setup_for(teacher[1]))(rows)
    assert result.rows["image_id"].to_pylist() == ["pool/a_good.png", "pool/f_good.png"]
    reasons = {r.image_id.removeprefix("pool/"): r.reason for r in result.rejects}
    assert reasons == {
        "b_empty.png": "empty_file",
        "c_text.jpg": "not_an_image",
        "d_cut.png": "truncated_image",
        "e_gone.png": "unreadable",
    }
    assert set(reasons.values()) <= set(REJECT_REASONS)


def test_a_part_without_images(teacher):
    result = label.STAGE.open(setup_for(teacher[1]))(CATALOG.schema().empty_table())
    assert result.rows.num_rows == 0
    assert result.rows.schema.equals(pa.schema(list(SOFT_LABELS.schema())[:-1]))


def test_more_kept_than_there_are_classes(teacher, folder):
    rows = label.STAGE.open(setup_for(teacher[1], label={"num_kept": 50}))(catalog(folder).slice(0, 2)).rows
    assert [sorted(ids) for ids in rows["class_ids"].to_pylist()] == [list(range(NUM_CLASSES))] * 2


def test_settings_hold_what_changes_a_label_and_nothing_else(teacher):
    def of(**sections):
        return label.STAGE.settings(setup_for(teacher[1], **sections).config)

    reference = of()
    for changed in (
        {"teacher": {"mean": (0.4, 0.4, 0.4)}},
        {"teacher": {"crop_pct": 0.9}},
        {"label": {"num_kept": 4}},
        {"teacher": {"image_size": 96}},
        {"teacher": {"model_args": {"drop_rate": 0.1}}},
    ):
        assert of(**changed) != reference
    for harmless in (
        {"teacher": {"min_top1": 0.1}},
        {"teacher": {"licence": "MIT"}},
        {"workspace": "elsewhere"},
        {"placement": {"loader_threads": 9}},
        {"label": {"num_kept": 3, "max_reject_share": 0.5}},
        {"teacher": {"weights": "/moved/weights.safetensors"}},
    ):
        assert of(**harmless) == reference
    assert json.loads(json.dumps(reference)) == reference


def test_the_fitted_teacher_takes_the_place_of_its_start(teacher, tmp_path):
    fit = {"teacher": {"weights": "/pretrained.safetensors", "fit": {}}}
    spec = teacher_spec(setup_for(None, {"fit_teacher": tmp_path}, **fit))
    assert spec.weights == str(tmp_path / "student.safetensors")
    assert spec.num_classes == NUM_CLASSES
    assert spec.head == "keep"


def test_no_weights_at_all_is_a_mistake():
    with pytest.raises(ValueError, match=r"teacher\.weights is null"):
        setup_for(None)


def test_weights_of_another_number_of_classes_are_refused(tmp_path):
    save_weights(timm.create_model("test_resnet", num_classes=1000), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"1000 classes, the run has 6: add teacher\.fit"):
        label.STAGE.open(setup_for(tmp_path / "w.safetensors"))


def test_weights_that_hold_nan_are_refused(teacher, folder, tmp_path):
    state = {k: v.clone() for k, v in teacher[0].state_dict().items()}
    state["fc.bias"][0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not finite"):
        label.STAGE.open(setup_for(tmp_path / "w.pt"))(catalog(folder))


def labelled_rightly(teacher, folder: Path) -> pa.Table:
    answers = [int(oracle(teacher[0], path).argmax()) for path in sorted(folder.iterdir())]
    return catalog(folder, "labeled", answers.__getitem__)


def test_a_teacher_that_knows_its_classes_passes(teacher, folder, tmp_path):
    rows = labelled_rightly(teacher, folder)
    wrong = [(c + 1) % NUM_CLASSES if n < 7 else c for n, c in enumerate(rows["class_id"].to_pylist())]
    rows = rows.set_column(rows.schema.get_field_index("class_id"), "class_id", pa.array(wrong, pa.int32()))
    figures, rejects = check_teacher.STAGE.build(setup_for(teacher[1]), rows, tmp_path)
    assert not rejects
    assert figures["num_images"] == 37
    assert figures["top1"] == pytest.approx(30 / 37)
    assert figures["top1"] <= figures["top5"] <= 1
    assert figures["chance"] == pytest.approx(1 / NUM_CLASSES)
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures


def test_a_teacher_is_measured_as_it_teaches(teacher, folder, tmp_path):
    """With batch norm in train mode, in the norm batches of the trainings; a much lower accuracy is a warning."""
    rows = labelled_rightly(teacher, folder)
    trainings = {
        "one": {"batch_size": 12, "norm_batch": 4},
        "other": {"batch_size": 12, "norm_batch": 3, "teacher_batch_norm": "eval"},
        "plain": {"loss": "ce", "batch_size": 6},
        "large": {"batch_size": 64},
    }
    figures, _ = check_teacher.STAGE.build(setup_for(teacher[1], trainings=trainings), rows, tmp_path)
    model = copy.deepcopy(teacher[0]).train()
    order = np.random.default_rng(0).permutation(37)[:36]
    rows = sample(rows, 2000)  # all of them, class by class in turn
    paths, labels = [Path(uri) for uri in rows["uri"].take(order).to_pylist()], rows["class_id"].take(order).to_numpy()
    with torch.no_grad():
        batches = [torch.cat([view_of(path) for path in paths[i : i + 4]]) for i in range(0, 36, 4)]
        answers = torch.cat([model(batch).argmax(dim=1) for batch in batches]).numpy()
    assert figures["top1"] == 1
    assert figures["top1_in_norm_batches_of_4"] == pytest.approx((answers == labels).mean())
    assert [name for name in figures if "norm_batches" in name] == ["top1_in_norm_batches_of_4"], (
        "64 images are not there"
    )
    (warning,) = figures["warnings"]
    assert "1.000 at rest" in warning and "norm_batch 4" in warning


def test_a_teacher_with_another_class_order_is_refused(teacher, folder, tmp_path):
    rows = labelled_rightly(teacher, folder)
    turned = pa.array([(c + 1) % NUM_CLASSES for c in rows["class_id"].to_pylist()], pa.int32())
    rows = rows.set_column(rows.schema.get_field_index("class_id"), "class_id", turned)
    with pytest.raises(UserError, match=r"accuracy of 0\.000 on 37 labelled images.*chance is 0\.167.*class list"):
        check_teacher.STAGE.build(setup_for(teacher[1]), rows, tmp_path)
    assert not list(tmp_path.iterdir())
    figures, _ = check_teacher.STAGE.build(setup_for(teacher[1], teacher={"min_top1": 0}), rows, tmp_path)
    assert figures["top1"] == 0


def test_a_constant_network_scores_nothing(folder, tmp_path):
    model = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    torch.nn.init.zeros_(model.get_classifier().weight)
    torch.nn.init.zeros_(model.get_classifier().bias)
    save_weights(model, tmp_path / "w.safetensors")
    setup = setup_for(tmp_path / "w.safetensors", teacher={"min_top1": 0})
    figures, _ = check_teacher.STAGE.build(setup, catalog(folder, "labeled", lambda number: 0), tmp_path)
    assert (figures["top1"], figures["top5"]) == (0, 0)


def test_nothing_to_measure(teacher, folder, tmp_path):
    unlabelled = catalog(folder, "labeled")
    with pytest.raises(UserError, match="none of the 37 images"):
        check_teacher.STAGE.build(setup_for(teacher[1]), unlabelled, tmp_path)
    unchecked = setup_for(teacher[1], teacher={"min_top1": 0})
    assert check_teacher.STAGE.build(unchecked, unlabelled, tmp_path)[0]["top1"] is None


def test_sample_is_even_over_classes_and_ignores_order():
    sizes = {0: 500, 1: 30, 2: 3, 3: 400}
    rows = pa.Table.from_pylist(
        [{"image_id": f"labeled/{c}/{i}", "role": "labeled", "class_id": c} for c, n in sizes.items() for i in range(n)]
        + [{"image_id": f"protected/{i}", "role": "protected", "class_id": 2} for i in range(50)]
        + [{"image_id": "labeled/none", "role": "labeled", "class_id": None}]
    )
    labelled = labelled_rows(rows)
    chosen = sample(labelled, 100)
    per_class = np.bincount(chosen["class_id"].to_numpy()).tolist()
    assert sum(per_class) == 100
    assert per_class[1:3] == [30, 3]
    assert abs(per_class[0] - per_class[3]) <= 1
    assert set(chosen["role"].to_pylist()) == {"labeled"}
    shuffled = labelled_rows(rows.take(np.random.default_rng(2).permutation(rows.num_rows)))
    assert set(sample(shuffled, 100)["image_id"].to_pylist()) == set(chosen["image_id"].to_pylist())
    assert sample(labelled, 10_000).num_rows == sum(sizes.values())
