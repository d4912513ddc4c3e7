"""Where and how fast a run works: part of no fingerprint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssld_pipeline.config.settings import Settings


class PlacementConfig(Settings):
    """Where and how fast; no field here can change a result beyond floating point and, for dedupe_on_gpu, which of two
    near neighbours is found. One exception: train_workers, in training with batch norm."""

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
    train_workers: int = Field(1, gt=0)
    """Processes of a training run; with GPUs, one each. Batch norm sees only the images of its own process, batch_size
    / train_workers of them, so this is part of the recipe of a network that has it, and of one whose teacher has it and
    teacher_batch_norm: train. The model's record says how many images they were; a run that was begun with another
    number is not resumed, and a finished model stays as it is."""
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
    """Local folder for artifacts of a remote workspace; default: a folder in the system's temporary directory."""
