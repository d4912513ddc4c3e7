"""Where and how fast a run works: part of no fingerprint."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.config.settings import Settings

Workers = Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class PlacementConfig(Settings):
    """Where and how fast; no field here can change a result beyond floating point and, for dedupe_on_gpu, which of two
    near neighbours is found."""

    runner: Literal["ray", "local"] = "ray"
    """ray: a cluster, or this machine as one. local: in this process, for debugging."""
    num_workers: int | None = Field(None, gt=0)
    """Workers per part stage; null: as many as the cluster's CPUs (GPUs for label) allow."""
    cpus_per_worker: int = Field(1, gt=0)
    """CPU cores, and threads, of one worker."""
    use_gpu: bool | None = None
    """null: where the cluster has one. true: nothing runs without; nodes that are still to come are waited for."""
    dedupe_on_gpu: bool = False
    """Search the protected key points on the GPU, one worker each: worth it where 64 cores or more feed it."""
    train_workers: Workers = 1
    """Processes of a training run; with GPUs, one each. [fewest, most]: as many as the cluster has room for, from one
    attempt to the next. They share the batch_size / norm_batch parts of a batch, so their number must divide that, and
    changes no result beyond floating point."""
    train_threads: int | None = Field(None, gt=0)
    """CPU threads of a training process's network; null: the cores of its node, shared among the processes."""
    loader_threads: int = Field(2, gt=0)
    """Threads that decode and augment per training process or label worker."""
    amp: bool = False
    """bfloat16 autocast in labelling and training, on GPUs; accuracies are measured in float32. It changes
    probabilities: MobileNetV2's largest one by .03 (median) to .28 of 31 photographs, others less; `ssld.teacher` in
    the table's metadata records it."""
    compile: bool = False
    """torch.compile the network that labels: half a minute per worker, and a C++ compiler is needed there."""
    compile_training: bool = False
    """torch.compile the networks of a training, teacher and students: minutes at the start of each, and a C++ compiler
    is needed there."""
    norm_batches_per_pass: int = Field(1, gt=0)
    """Norm batches (`norm_batch` images each) that go through a network at once in training, as far as the device's
    memory allows; statistics stay those of each. One small norm batch does not fill a GPU."""
    decode_workers: int = Field(0, ge=0)
    """CPUs anywhere in the cluster that decode images for each worker that labels, where the nodes with GPUs have too
    few of their own. Pixels then travel through Ray's object store. 0: the worker's own threads decode."""
    label_batch_size: int | None = Field(None, gt=0)
    """Views through the teacher at once; null: chosen, on a GPU by a short measurement. Halved where the
    device's memory does not suffice."""
    part_deadline_s: float = Field(3600, gt=0)
    """A part of catalog.images_per_part images that takes longer is given to another worker. A whole input, which
    evaluate measures once per model, has as much more time as it has more images, times the models."""
    part_attempts: int = Field(3, gt=0)
    """Workers a part may cost before the run gives up on it."""
    checkpoint_every_s: float = Field(600, gt=0)
    """Seconds between training checkpoints."""
    train_failures: int = Field(3, ge=0)
    """Lost training workers after which the run gives up."""
    room_wait_s: float = Field(1800, ge=0)
    """Seconds to wait for the CPUs and GPUs that a training run, or an index, needs at once, on a cluster that still
    fills up or has other work; then the run gives up."""
    cache: str | None = None
    """Local folder for artifacts of a remote workspace, and for rows and stored labels that the training processes of a
    node map; default: a folder in the system's temporary directory."""

    @model_validator(mode="after")
    def _fewest_before_most(self) -> Self:
        if self.fewest_train_workers > self.most_train_workers:
            raise ValueError(f"train_workers: [fewest, most], got {list(self.train_worker_range)}")
        return self

    @property
    def train_worker_range(self) -> tuple[int, int]:
        """Fewest and most processes of a training run."""
        return (self.train_workers,) * 2 if isinstance(self.train_workers, int) else self.train_workers

    @property
    def fewest_train_workers(self) -> int:
        return self.train_worker_range[0]

    @property
    def most_train_workers(self) -> int:
        return self.train_worker_range[1]

    def workers_for(self, num_micro_batches: int) -> tuple[int, ...]:
        """The numbers of processes that can share so many parts of a batch, ascending."""
        fewest, most = self.train_worker_range
        return tuple(n for n in range(fewest, min(most, num_micro_batches) + 1) if num_micro_batches % n == 0)
