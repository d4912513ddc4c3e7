"""What a cluster is given: configs that load, an entry point that works, manifests that agree with both."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import mini
import pyarrow as pa
import pytest
import yaml

from ssld_pipeline.config.load import load_config
from ssld_pipeline.export.model import WEIGHTS_FILE
from ssld_pipeline.models.build import has_model
from ssld_pipeline.pipeline import stage_named
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.stages.stage import TrainStage
from ssld_pipeline.stages.teacher import networks_of
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.store.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
JOBS, DOCKER = ROOT / "jobs", ROOT / "docker"
CONFIGS = sorted((JOBS / "configs").glob("*.yaml"))


@pytest.fixture
def run_pipeline(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(JOBS))
    import run_pipeline

    return run_pipeline


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return next(yaml.safe_load_all((JOBS / "rayjob.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def in_checkout(path: str) -> Path:
    """A path of the image, where it comes from."""
    workdir = next(line.split()[1] for line in instructions("cpu") if line.startswith("WORKDIR"))
    return ROOT / Path(path).relative_to(workdir)


def instructions(image: str) -> list[str]:
    lines = (DOCKER / f"Dockerfile.{image}").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def worker_groups(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


# Configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_loads(path: Path) -> None:
    config = load_config(path)
    for name, recipe in config.recipes().items():
        assert config.placement.workers_for(recipe.num_micro_batches), f"{name}: {recipe.batch_size}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_names_networks_that_exist(path: Path) -> None:
    config = load_config(path)
    students = [config.network_of(name) for name in config.nodes]
    for model in {config.teacher.model, *(student.model for student in students if student)}:
        assert has_model(model), model


def test_clothing_stays_in_the_ignored_folder() -> None:
    """Its inputs and tables lie under runs/, which git ignores, wherever the checkout is."""
    config = load_config(JOBS / "configs" / "clothing.yaml")
    uris = [config.workspace, str(config.teacher.weights), *(item.uri for _, item in config.named_inputs().values())]
    assert [Path(uri).resolve().relative_to(ROOT).parts[:2] for uri in uris] == [("runs", "clothing")] * len(uris)
    assert list(config.named_inputs()) == ["labeled", "validation", "test", "pool", "teacher"]


def test_one_config_trains_the_seven_students_of_the_publication(tmp_path: Path) -> None:
    """Each in two stages, the MobileNets taught by the finished ResNet50_vd, from one mining."""
    mini.write_inputs(tmp_path / "inputs")
    mini.write_teacher(tmp_path / "teacher.safetensors")
    inputs = {"labeled": "train", "protected": "validation", "pool": "pool"}
    overrides = [f"inputs.{role}.uri={tmp_path}/inputs/{name}" for role, name in inputs.items()]
    overrides += ["inputs.protected.format=folder", f"workspace={tmp_path}/workspace"]
    overrides += [f"teacher.weights={tmp_path}/teacher.safetensors"]
    config = load_config(JOBS / "configs" / "imagenet22k_ssld.yaml", tuple(overrides))
    planned = [made.stage for made in plan_run(survey(config)) if made.changes]
    networks = ["resnet50_vd", "resnet101_vd", "res2net200_vd", "mobilenetv3_large", "mobilenetv3_small"]
    networks += ["mobilenetv1", "mobilenetv2"]
    names = {f"{network}{stage}" for network in networks for stage in ("", "_finetuned")}
    assert set(config.nodes) == names <= set(planned)
    for network in networks:
        first, second = config.nodes[network], config.nodes[f"{network}_finetuned"]
        assert (first.data, second.data, second.init) == ("manifest", "labeled", network)
        teacher = "teacher" if "res" in network else "resnet50_vd_finetuned"
        assert first.teacher == second.teacher == teacher
        assert planned.index(network) > planned.index("select")
    assert planned.index("mobilenetv1") > planned.index("resnet50_vd_finetuned")


@pytest.mark.parametrize("path", [*CONFIGS, *JOBS.glob("*.*")], ids=lambda p: p.stem)
def test_paths_into_the_checkout_exist(path: Path) -> None:
    """Those that comments and commands name."""
    named = re.findall(r"(?<![\w.])(?:jobs|docker|benchmarks)/[\w./-]*\w", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_weights_of_another_run_are_files_that_export_writes(path: Path) -> None:
    """Where a comment says how weights are exported, the setting below names the file that this command writes."""
    text = path.read_text(encoding="utf-8")
    exports = re.findall(r"ssld export (\S+) (\S+) --out (\S+)", text)
    weights = [str(network.weights) for network in networks_of(load_config(path).teacher).values()]
    assert len(exports) == text.count("ssld export")
    for config, stage, folder in exports:
        assert isinstance(stage_named(load_config(ROOT / config), stage), TrainStage)
        assert f"{folder}/{WEIGHTS_FILE}" in weights


# The entry point


def test_no_script_hides_a_module_of_the_standard_library() -> None:
    """A job's folder leads sys.path: a select.py there would be imported instead of Python's own."""
    assert not {p.stem for p in JOBS.glob("*.py")} & sys.stdlib_module_names


def test_entry_point_runs_verifies_and_reports(
    run_pipeline: Any, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_pipeline.main([str(world), "--until", "catalog", "--set", "catalog.images_per_part=20"]) == 0
    told = capsys.readouterr().out
    assert "catalog_ids" in told
    assert "BROKEN" not in told
    assert "dedupe" not in told.split("ok ")[0]
    assert (world.parent / "workspace" / "report.html").stat().st_size > 1000


def test_entry_point_exits_1_on_a_broken_law(
    run_pipeline: Any, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_pipeline.main([str(world), "--until", "catalog"]) == 0
    give_a_part_an_unknown_role(Workspace(str(world.parent / "workspace")).tables["catalog"])
    assert run_pipeline.main([str(world), "--until", "catalog"]) == 1
    assert "BROKEN catalog_rows" in capsys.readouterr().out


def give_a_part_an_unknown_role(catalog: TableStore) -> None:
    part = next(iter(catalog.parts().values()))
    rows = catalog.read(part)
    at = rows.column_names.index("role")
    rows = rows.set_column(at, "role", pa.array(["nobody"] * rows.num_rows, pa.string()))
    written = catalog.write(
        rows, {"part": part.name}, part.fingerprint, catalog.settings_of(part), catalog.roots_of(part)
    )
    catalog.commit([written], [part])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "select.perclass=3"], "did you mean 'per_class'?"),
        (["--set", "inputs.pool.uri=nowhere"], "nowhere cannot be read"),
        (["--until", "selekt"], "no such stage"),
    ],
)
def test_entry_point_exits_2_on_a_mistake(
    run_pipeline: Any, world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run_pipeline.main([str(world), *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ssld: ")
    assert says in told


# The RayJob


def test_rayjob_starts_files_that_the_image_holds(run_pipeline: Any, rayjob: dict[str, Any]) -> None:
    python, script, config, *options = shlex.split(rayjob["spec"]["entrypoint"])
    assert python == "python"
    assert in_checkout(script).resolve() == Path(run_pipeline.__file__).resolve()
    assert "COPY jobs jobs" in instructions("cpu")
    load_config(in_checkout(config))
    assert run_pipeline._parser().parse_args([config, *options]).config == config


def test_rayjob_has_the_gpus_its_config_asks_for(rayjob: dict[str, Any]) -> None:
    config = load_config(in_checkout(shlex.split(rayjob["spec"]["entrypoint"])[2]))
    gpus = [g["replicas"] * int(limits(g).get("nvidia.com/gpu", 0)) for g in worker_groups(rayjob)[1:]]
    assert sum(gpus) >= config.placement.most_train_workers


def test_rayjob_gpu_nodes_have_the_most_cores(rayjob: dict[str, Any]) -> None:
    """A task that needs a GPU and all cores of the largest node would otherwise wait for ever."""
    cores = {"nvidia.com/gpu" in limits(g): int(limits(g)["cpu"]) for g in worker_groups(rayjob)[1:]}
    assert cores[True] >= cores[False]


def limits(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_rayjob_pods_are_fit_to_run(rayjob: dict[str, Any]) -> None:
    for group in worker_groups(rayjob):
        pod = group["template"]["spec"]
        volumes = {v["name"]: v for v in pod["volumes"]}
        container = pod["containers"][0]
        mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in mounts["/data"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert f"USER {pod['securityContext']['runAsUser']}" in instructions("cpu")
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["image"].endswith("-gpu" if "nvidia.com/gpu" in limits(group) else "-cpu")


def test_rayjob_does_no_work_on_the_head_and_asks_for_a_token(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_network_policy_covers_every_pod(rayjob: dict[str, Any]) -> None:
    policy = list(yaml.safe_load_all((JOBS / "rayjob.yaml").read_text(encoding="utf-8")))[1]["spec"]
    chosen = policy["podSelector"]["matchLabels"].items()
    assert all(chosen <= g["template"]["metadata"]["labels"].items() for g in worker_groups(rayjob))
    assert policy["ingress"][0]["from"] == [{"podSelector": policy["podSelector"]}]
    assert [p["port"] for p in policy["ingress"][1]["ports"]] == [8265]


# Images and compose


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_image_is_pinned_and_runs_as_nobody_special(image: str) -> None:
    lines = instructions(image)
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if line.startswith("ARG "))
    base = next(line.split()[1] for line in lines if line.startswith("FROM"))
    base = arguments.get(base.strip("${}"), base)
    assert base.rpartition(":")[2][0].isdigit(), base
    assert [line for line in lines if line.startswith("USER")][-1] != "USER root"


def test_image_python_is_one_the_package_runs_on() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    base = next(line.split()[1] for line in instructions("cpu") if line.startswith("FROM"))
    version = base.rpartition(":")[2].split("-")[0]
    assert tuple(map(int, version.split("."))) >= tuple(map(int, wanted.removeprefix(">=").split(".")))


def test_image_copies_only_what_the_build_context_lets_in() -> None:
    let_in = {
        line.removeprefix("!")
        for line in (DOCKER / "Dockerfile.cpu.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {source for line in instructions("cpu") if line.startswith("COPY") for source in line.split()[1:-1]}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


def test_compose_keeps_ports_on_this_machine_and_asks_for_a_token(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    assert {port for s in services for port in s.get("ports", ())} == {"127.0.0.1:8265:8265"}
    for service in services:
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert service["shm_size"].endswith("gb")


def test_compose_builds_images_that_are_there(compose: dict[str, Any]) -> None:
    built = {s["image"]: s["build"] for s in compose["services"].values() if "build" in s}
    assert {s["image"] for s in compose["services"].values()} == built.keys()
    for image, build in built.items():
        dockerfile = DOCKER / build["context"] / build["dockerfile"]
        assert f"-t {image} " in dockerfile.read_text(encoding="utf-8")
    assert f"ARG CPU_IMAGE={compose['services']['head']['image']}" in instructions("gpu")
