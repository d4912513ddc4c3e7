"""Real processes, really killed: the driver mid-stage, a worker mid-part, a training run mid-epoch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini
import pytest

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.laws import verify_laws

DEADLINE_S = 240


def start(config: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ssld_pipeline", "run", str(config), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def committed(config: RunConfig, table: str) -> set[str]:
    """Files of the pool's parts."""
    parts = Workspace(config.workspace).tables[table].parts().values()
    return {p.file for p in parts if p.name.startswith("pool/")}


def assert_lawful(config: RunConfig) -> None:
    assert not [v for v in verify_laws(Workspace(config.workspace), config) if v.num_broken]


CATALOG = {"images_per_part": 3}


def bring_checks(config: Path, until: str = "check_dedupe") -> None:
    """Run the stages up to ``until``, and check_teacher, in this process: none of them is where a kill comes."""
    mini.bring(load_config(config), until=until)
    mini.bring(load_config(config), only=("check_teacher",))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world whose pool is cut into some forty parts, in which find_copies is the next stage."""
    folder = tmp_path_factory.mktemp("checked") / "runs"
    bring_checks(mini.write_world(folder, num_tars=8, catalog=CATALOG))
    return folder


def many_parts(checked: Path, parent: Path, **placement: Any) -> Path:
    """The config of a copy of that world, whose other parts are left to workers of Ray."""
    placement = {"num_workers": 2, **mini.THREADS, **placement}
    return mini.write_config(mini.copy_world(checked, parent), catalog=CATALOG, placement=placement)


def worker_pids(driver: subprocess.Popen[bytes]) -> list[int]:
    """Ray workers at a part that descend from this driver, and from no other run on the machine."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}
    return [int(pid) for pid, _, name in rows if "ray::_do_unit" in name and descends(int(pid), driver.pid, parents)]


def descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


@pytest.mark.ray
def test_a_killed_driver_leaves_what_was_committed_and_the_next_run_does_the_rest(
    checked: Path, tmp_path: Path
) -> None:
    path = many_parts(checked, tmp_path)
    config = load_config(path)
    driver = start(path, "--until", "select")
    kept = wait_for(lambda: committed(config, "pairs"), driver)
    kill(driver.pid)
    driver.communicate()
    output = finish(start(path, "--until", "select"))
    assert kept <= committed(config, "pairs"), "a committed part was done again"
    line = next(line for line in output.splitlines() if line.startswith("find_copies ") and "parts run" in line)
    assert int(line.split("reused ")[1].split(",")[0]) >= len(kept)
    assert_lawful(config)


@pytest.mark.ray
def test_a_killed_worker_costs_its_part_in_flight_and_the_run_goes_on(checked: Path, tmp_path: Path) -> None:
    path = many_parts(checked, tmp_path)
    config = load_config(path)
    driver = start(path, "--until", "select")
    wait_for(lambda: committed(config, "pairs"), driver)
    kill(wait_for(lambda: worker_pids(driver), driver)[0])
    finish(driver)
    names = [p.name for p in Workspace(config.workspace).tables["soft_labels"].parts().values()]
    assert len(names) == len(set(names)) == len(_pool_parts(config))
    assert_lawful(config)


@pytest.mark.ray
def test_a_stuck_workers_part_is_given_to_another_after_the_deadline(checked: Path, tmp_path: Path) -> None:
    """A worker that neither works nor dies, played by a stopped process."""
    path = many_parts(checked, tmp_path, part_deadline_s=15)
    config = load_config(path)
    driver = start(path, "--until", "dedupe")  # at its first part a worker loads libraries: time enough to stop it
    os.kill(wait_for(lambda: worker_pids(driver), driver)[0], signal.SIGSTOP)
    output = finish(driver)
    assert "no answer within 15 s (placement.part_deadline_s); it is given to another" in output
    done = [p.name for p in Workspace(config.workspace).tables["pairs"].parts().values()]
    assert sorted(name for name in done if name.startswith("pool/")) == sorted(_pool_parts(config))
    assert_lawful(config)


_DEADLY = """
import cv2, os
decode = cv2.imdecode
def imdecode(data, *flags):
    if data.tobytes().endswith(b"deadly"):
        os.kill(os.getpid(), 9)
    return decode(data, *flags)
cv2.imdecode = imdecode
"""


@pytest.mark.ray
@pytest.mark.parametrize("decoders", [0, 1])
def test_an_image_that_ends_its_decoder_stops_neither_its_part_nor_the_run(tmp_path: Path, decoders: int) -> None:
    """Every Python process here has an OpenCV that one image of the pool kills; find_copies is told to know it."""
    path = mini.write_world(tmp_path / "runs", num_tars=1, placement={"decode_workers": decoders, **mini.THREADS})
    members = mini.pool_tar(0) | {"deadly.jpg": mini.jpeg(mini.draw(0, 7)) + b"deadly"}
    mini.write_tar(tmp_path / "runs/inputs/pool/pool-0.tar", members)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_DEADLY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    # With decoders past find_copies, which keeps what it finds out from label.
    bring_checks(path, "dedupe" if decoders else "check_dedupe")
    finish(start(path, "--until", "select", env=environment))
    config = load_config(path)
    rejects = run_sql(Workspace(config.workspace), "SELECT image_id, stage, reason FROM rejects").to_pylist()
    stage = "label" if decoders else "find_copies"
    assert rejects == [{"image_id": "pool/pool-0.tar/deadly.jpg", "stage": stage, "reason": "deadly_image"}]
    labelled = run_sql(Workspace(config.workspace), "SELECT count(*) AS n FROM soft_labels")["n"].to_pylist()
    assert labelled == [12], "the rest of the part is labelled"
    assert_lawful(config)


def _pool_parts(config: RunConfig) -> list[str]:
    return [
        p.name for p in Workspace(config.workspace).tables["catalog"].parts().values() if p.name.startswith("pool/")
    ]


@pytest.mark.slow
def test_a_training_run_killed_mid_epoch_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    path = mini.write_world(
        tmp_path / "runs",
        finetune=None,
        baseline=None,
        placement={"runner": "local", "checkpoint_every_s": 0.2, **mini.THREADS},
        train={"steps": 150, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32, "validations": 1},
    )
    config = load_config(path)
    mini.bring(config, until="select")
    driver = start(path)
    train = Path(config.workspace) / "models" / "train"
    wait_for(lambda: len(list(train.glob("*/checkpoint*"))) >= 2, driver)
    kill(driver.pid)
    driver.communicate()
    assert not (train / "record.json").exists()
    finish(start(path))
    rows = [json.loads(line) for line in (train / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 150, "each step is logged once"
    resumed = [row["resumed_at"] for row in rows if "resumed_at" in row]
    assert resumed and 0 < resumed[0] < 150
    assert_lawful(config)
