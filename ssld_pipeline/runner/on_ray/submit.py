"""Send a run to a Ray cluster as a job: the config with absolute paths, and this package, travel along."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.job_submission as jobs
from ray.exceptions import AuthenticationError

import ssld_pipeline
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError

_AGENT_ATTEMPTS = 9  # some 36 s in all
_ENTRYPOINT = "python -m ssld_pipeline run config.yaml"


@dataclass(frozen=True)
class Job:
    id: str
    client: Any


def submit_job(config: RunConfig, address: str, environment: dict[str, str], *options: str) -> Job:
    """The job, queued; ``environment`` are variables for its processes, ``options`` are given to its `ssld run`.

    UserError when nobody answers at ``address`` or the cluster refuses the caller.
    """
    client = _client(address)
    with tempfile.TemporaryDirectory() as folder:
        # JSON is YAML; the paths are absolute, since a job's working directory is a copy somewhere on the cluster.
        text = json.dumps(config.model_dump(mode="json"), indent=1)
        Path(folder, "config.yaml").write_text(text, encoding="utf-8")
        runtime_env = {
            "working_dir": folder,
            "py_modules": [str(Path(ssld_pipeline.__file__).parent)],
            # A cluster on this machine, or one that shares its disk, runs the job with this very Python; any other has
            # no such folder and takes its own.
            "env_vars": {**environment, "PATH": f"{Path(sys.executable).parent}:${{PATH}}"},
        }
        return Job(_queue(client, runtime_env, address, options), client)


def _queue(client: Any, runtime_env: dict[str, Any], address: str, options: Sequence[str]) -> str:
    """The job's id. A head answers some seconds before the agent that starts jobs does: they are waited for."""
    for attempt in range(_AGENT_ATTEMPTS):
        try:
            return str(client.submit_job(entrypoint=" ".join((_ENTRYPOINT, *options)), runtime_env=runtime_env))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise UserError(f"{address} refused the job: {error}") from None
            time.sleep(attempt)
    raise UserError(
        f"{address} has no agent that could start the job. Is another Ray on that machine, with the same agent port? "
        "Start the head with a free --dashboard-agent-listen-port"
    )


def follow_job(job: Job) -> int:
    """Print the job's log until it ends; the exit code of its process, 1 where the cluster lost it."""

    async def tail() -> None:
        async for lines in job.client.tail_job_logs(job.id):
            print(lines, end="", flush=True)

    asyncio.run(tail())
    info = job.client.get_job_info(job.id)
    if info.status == jobs.JobStatus.SUCCEEDED:
        return 0
    print(f"job {job.id}: {info.status} {info.message or ''}".rstrip())
    return info.driver_exit_code or 1


def _client(address: str) -> Any:
    try:
        return jobs.JobSubmissionClient(address)
    except ConnectionError as error:
        raise UserError(
            f"no Ray dashboard answers at {address}; is the head node up, and the port 8265? ({error})"
        ) from None
    except AuthenticationError as error:
        raise UserError(
            f"{address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH ({error})"
        ) from None
