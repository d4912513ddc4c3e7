"""From measured speeds to hours, bytes and money on given machines: arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ssld_pipeline.runner.calibrate.measure import Feed, Speed, TrainSpeed

_AMPLE = 1.2


@dataclass(frozen=True)
class Machines:
    """The cluster to estimate for. ``node_cpus``: cores of its largest node. Prices per hour, None: not asked for.
    ``gpu_rates``: images/s of one GPU, by stage, measured elsewhere."""

    cpus: int
    gpus: int = 0
    node_cpus: int = 1
    cpu_price: float | None = None
    gpu_price: float | None = None
    gpu_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What a stage has to do and what that takes. ``hours`` is None where something could not be measured, which
    ``notes`` name; ``at_least_hours`` is then what is known of it. ``rate``: images/s of one worker. ``core_hours``: of
    CPU, all threads and workers together."""

    stage: str
    to_do: int
    unit: str = "images"
    rate: float | None = None
    workers: int = 1
    gpus: int = 0
    hours: float | None = None
    at_least_hours: float = 0.0
    core_hours: float | None = None
    gigabytes: float = 0.0
    bottleneck: str = ""
    cost: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_parts(
    stage: str, num_images: int, speed: Speed, workers: int, machines: Machines, feed: Feed | None, work: str
) -> Estimate:
    """A part stage on CPUs: workers side by side, but never more CPU seconds than the cores have."""
    cold_s = max(0.0, feed.read_s - feed.read_again_s) if feed else 0.0
    by_clock = num_images * (1 / speed.rate + cold_s) / workers
    by_cores = num_images * speed.core_s / machines.cpus
    return Estimate(
        stage,
        num_images,
        rate=speed.rate,
        workers=workers,
        hours=(speed.start_s + max(by_clock, by_cores)) / 3600,
        core_hours=num_images * speed.core_s / 3600,
        gigabytes=num_images * speed.bytes_per_image / 1e9,
        bottleneck=bottleneck(speed, feed, work),
    )


def of_artifact(
    stage: str, num_images: int, speed: Speed, threads: int, wanted: int, feed: Feed | None, work: str
) -> Estimate:
    """One task with ``wanted`` threads, measured with ``threads``."""
    scale = wanted / threads
    note = f"measured with {threads} threads, taken to be {scale:g} times as fast with {wanted}"
    return Estimate(
        stage,
        num_images,
        rate=speed.rate * scale,
        hours=(speed.start_s + num_images / speed.rate / scale) / 3600,
        core_hours=num_images * speed.core_s / 3600,
        gigabytes=num_images * speed.bytes_per_image / 1e9,
        bottleneck=bottleneck(speed, feed, work),
        notes=() if scale == 1 else (note,),
    )


def bottleneck(speed: Speed, feed: Feed | None, work: str) -> str:
    """What takes most of an image's time on a CPU: reading, decoding or the stage's own ``work``."""
    if feed is None:
        return work
    own_s = speed.core_s - feed.decode_s
    return max((feed.read_s, "reading"), (feed.decode_s, "decoding"), (own_s, work))[1]


def on_gpus(
    stage: str, num_images: int, rate: float | None, gpus: int, machines: Machines, feed: Feed | None
) -> Estimate:
    """A network on ``gpus``, at ``rate`` images/s each if known, fed by all cores."""
    feed_s = num_images * (feed.read_s + feed.decode_s) / machines.cpus if feed else 0.0
    found = Estimate(stage, num_images, rate=rate, workers=gpus, gpus=gpus, at_least_hours=feed_s / 3600)
    if rate is None:
        return replace(found, notes=(f"not measured: no GPU here; give --gpu-rate {stage}=IMAGES_PER_S",))
    network_s = num_images / rate / max(1, gpus)
    is_fed = feed is None or feed_s * _AMPLE < network_s
    starved = "reading" if feed and feed.read_s > feed.decode_s else "decoding"
    return replace(found, hours=max(network_s, feed_s) / 3600, bottleneck="network" if is_fed else starved)


def of_training(
    stage: str, steps: int, batch_size: int, speed: TrainSpeed, workers: int, num_validated: int, feed: Feed | None
) -> Estimate:
    """``num_validated``: protected images seen during the whole run. Workers share each batch."""
    train, validate = speed.train, speed.validate
    seconds = train.start_s + steps * batch_size / train.rate / workers
    core_s = steps * batch_size * train.core_s
    if validate:
        seconds += num_validated / validate.rate / workers
        core_s += num_validated * validate.core_s
    notes: tuple[str, ...] = ()
    if speed.batch_size * workers != batch_size:
        notes = (f"measured with batches of {speed.batch_size} instead of {batch_size // workers} a worker",)
    return Estimate(
        stage,
        steps,
        "steps",
        train.rate,
        workers,
        hours=seconds / 3600,
        core_hours=core_s / 3600,
        bottleneck=bottleneck(train, feed, "network"),
        notes=notes,
    )


def priced(found: Estimate, machines: Machines) -> Estimate:
    """With what it costs: the stage's GPUs, and all CPUs, for its hours; None without hours or without prices."""
    if found.hours is None or (machines.gpu_price is None and machines.cpu_price is None):
        return found
    per_hour = found.gpus * (machines.gpu_price or 0.0) + machines.cpus * (machines.cpu_price or 0.0)
    return replace(found, cost=found.hours * per_hour)
