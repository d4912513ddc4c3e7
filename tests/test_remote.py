"""A whole run whose workspace and inputs are in an object store: an S3 server on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest

pytestmark = pytest.mark.slow

s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install s3fs")
MOTO = shutil.which("moto_server") or pytest.skip(
    "needs an S3 server: pip install 'moto[server]', in an environment of its own", allow_module_level=True
)
SSLD = [sys.executable, "-m", "ssld_pipeline"]


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """Environment variables with which an empty store is found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([MOTO, "-p", str(port)], **quiet)
    wait_for(port)
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.terminate()
    server.wait(20)


def wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")


@pytest.fixture(scope="module")
def world(store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose inputs and workspace are s3:// addresses; the inputs are there."""
    folder = tmp_path_factory.mktemp("remote")
    config = mini.write_world(folder, workspace="s3://workspaces/run", finetune=None, baseline=None)
    config.write_text(config.read_text().replace("uri: inputs/", "uri: s3://images/inputs/"))
    files = s3fs.S3FileSystem(key="a", secret="b", endpoint_url=store["AWS_ENDPOINT_URL"])
    files.mkdir("workspaces")
    files.mkdir("images")
    files.put(str(folder / "inputs"), "images/inputs", recursive=True)
    shutil.rmtree(folder / "inputs")
    return config


def ssld(store: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SSLD, *map(str, arguments)], env={**os.environ, **store}, capture_output=True, text=True, timeout=300
    )


def test_a_run_in_an_object_store(store: dict[str, str], world: Path, tmp_path: Path) -> None:
    done = ssld(store, "run", world)
    assert done.returncode == 0, done.stderr
    again = ssld(store, "run", world)
    assert again.returncode == 0 and "parts run 1" not in again.stdout, again.stdout
    lawful = ssld(store, "verify", world)
    assert lawful.returncode == 0, lawful.stdout
    inspected = ssld(store, "inspect", world, "--image", "pool/pool-0.tar/001.jpg")
    assert "s3://images/inputs/pool/pool-0.tar" in inspected.stdout and "stripes" in inspected.stdout
    exported = ssld(store, "export", world, "train", "--out", tmp_path / "model")
    assert exported.returncode == 0 and (tmp_path / "model/model.safetensors").stat().st_size > 1000
    assert ssld(store, "report", world, "--out", tmp_path / "report.html").returncode == 0


def test_a_bucket_that_is_not_there_is_one_clear_message(store: dict[str, str], world: Path) -> None:
    done = ssld(store, "run", world, "--set", "workspace=s3://nowhere/run")
    assert done.returncode == 2 and "workspace cannot be read" in done.stderr and "Traceback" not in done.stderr
