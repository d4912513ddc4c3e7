"""A run on Ray: several training processes, and a job submitted to a head node, with and without its token."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mini
import pytest

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import Receipt, WorkerSpec
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.laws import verify_laws

RAY = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
SSLD = [sys.executable, "-m", "ssld_pipeline"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard of a head node that asks for a token, and an environment that has it."""
    folder, port = tmp_path_factory.mktemp("head"), free_port()
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    with_token = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--dashboard-port={port}",
        f"--port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
        "--include-dashboard=true",
        "--disable-usage-stats",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=with_token, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    yield f"http://127.0.0.1:{port}", with_token
    process.terminate()  # --block stops the node's other processes with it
    process.wait(60)


def submit(config: Path, address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*SSLD, "submit", str(config), "--address", address, "--follow"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)


def wait_until_up(address: str, environment: dict[str, str]) -> None:
    import time
    import urllib.request

    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    for _ in range(240):
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head node did not come up")


def test_a_submitted_run_is_followed_and_gives_its_exit_code(
    ray_head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, with_token = ray_head
    wait_until_up(address, with_token)
    config = mini.write_world(
        tmp_path / "runs", num_tars=1, finetune=None, baseline=None, placement={"num_workers": 1, **mini.THREADS}
    )
    done = submit(config, address, with_token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "label" in done.stdout and "parts run" in done.stdout, "the job's log is followed"
    loaded = load_config(config)
    workspace = Workspace(loaded.workspace)
    assert run_sql(workspace, "SELECT count(*) AS n FROM soft_labels")["n"].to_pylist() == [12]
    assert not [v for v in verify_laws(workspace, loaded) if v.num_broken]

    (tmp_path / "runs" / "teacher.safetensors").write_bytes(b"damaged")
    failed = submit(config, address, with_token)
    assert failed.returncode == 2 and "teacher.safetensors" in failed.stdout + failed.stderr


def test_without_the_token_it_is_one_clear_message(ray_head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, with_token = ray_head
    wait_until_up(address, with_token)
    environment = {k: v for k, v in with_token.items() if not k.startswith("RAY_AUTH")}
    refused = submit(mini.write_world(tmp_path / "runs", num_tars=1), address, {**environment, "HOME": str(tmp_path)})
    assert refused.returncode == 2 and "token" in refused.stderr and "Traceback" not in refused.stderr


def test_nobody_at_the_address_is_one_clear_message(world: Path) -> None:
    nobody = submit(world, f"http://127.0.0.1:{free_port()}", dict(os.environ))
    assert nobody.returncode == 2 and "no Ray dashboard answers" in nobody.stderr and "Traceback" not in nobody.stderr


@pytest.mark.ray
def test_two_training_processes_make_one_model(tmp_path: Path) -> None:
    config = mini.write_world(
        tmp_path / "runs",
        num_tars=1,
        finetune=None,
        baseline=None,
        train={**mini.settings()["train"], "norm_batch": 4},
        placement={"train_workers": 2, "num_workers": 1, **mini.THREADS},
    )
    mini.bring(load_config(config), until="select")
    done = subprocess.run([*SSLD, "run", str(config)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        json.loads(line) for line in (tmp_path / "runs/workspace/models/train/metrics.jsonl").read_text().splitlines()
    ]
    num_images = run_sql(Workspace(load_config(config).workspace), "SELECT count(*) AS n FROM manifest")["n"][0].as_py()
    assert max(row["step"] for row in rows) == 2 * (num_images // 8), (
        "two epochs of the global batch, not of each process's"
    )
    assert any("validation_top1" in row for row in rows)


class OneWorker(LocalEngine):
    """Works in this process with the threads of a worker: with more, the last bit of a probability differs."""

    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt]:
        return super().work(replace(spec, num_threads=spec.config.placement.cpus_per_worker), units)


@pytest.mark.ray
def test_other_workers_decode_for_the_one_that_labels(tmp_path: Path) -> None:
    """The labels are those of a process that decodes by itself, a damaged image is a reject, and nothing waits for ever
    where there are as many CPUs as one worker and its decoders need."""
    config = mini.write_world(tmp_path, train={**mini.settings()["train"], "steps": 1}, finetune=None)
    members = mini.pool_tar(0) | {"bad.jpg": b"\xff\xd8 no picture"}
    mini.write_tar(tmp_path / "inputs/pool/pool-0.tar", members)
    alone, apart = (load_config(config, (f"workspace={tmp_path / name}",)) for name in ("alone", "apart"))
    mini.bring(alone, until="dedupe")
    mini.bring(alone, only=("check_teacher",))
    shutil.copytree(alone.workspace, apart.workspace, copy_function=shutil.copy2)
    run_pipeline(survey(alone), OneWorker, mini.Silent(), until="label")
    placement = "placement={runner: ray, decode_workers: 2, loader_threads: 1}"
    command = [*SSLD, "run", str(config), "--until", "label", "--set", f"workspace={apart.workspace}"]
    done = subprocess.run([*command, "--set", placement], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected, found = labels_and_rejects(alone), labels_and_rejects(apart)
    assert len(expected[0]) == 24 and found == expected


def labels_and_rejects(config: RunConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    workspace = Workspace(config.workspace)
    labels = run_sql(workspace, "SELECT * FROM soft_labels ORDER BY image_id, view").to_pylist()
    return labels, run_sql(workspace, "SELECT image_id, stage, reason FROM rejects").to_pylist()
