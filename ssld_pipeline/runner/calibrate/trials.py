"""A stage tried on the sample, and from that its estimate: one way for each of the four shapes of work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.pipeline import stage_named, stage_of, stages
from ssld_pipeline.runner.calibrate.estimate import (
    Estimate,
    Machines,
    of_artifact,
    of_parts,
    of_training,
    on_gpus,
)
from ssld_pipeline.runner.calibrate.measure import (
    Speed,
    measure_artifact,
    measure_feed,
    measure_part,
    measure_training,
    written_bytes,
)
from ssld_pipeline.runner.calibrate.sample import draw_sample
from ssld_pipeline.runner.calibrate.stand_ins import StandIns, lenient, spread
from ssld_pipeline.runner.planned import StagePlan
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.runner.work import rows_that_hold
from ssld_pipeline.stages.networks import check_networks
from ssld_pipeline.stages.stage import ArtifactStage, PartStage, QueryStage, Setup, Stage, TrainStage
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.job import TrainJob

_SHARE_OF_TIME = 0.7  # the rest goes to opening stages
_CANARIES = 31
_CHECKED = 64
_VALIDATED = {"cpu": 48, "cuda": 512}
_WORK = {
    "find_copies": "search",
    "check_dedupe": "search",
    "index_protected": "key points",
    "look": "decoding",
    "hold_out": "decoding",
}
# DuckDB in the driver: benchmarks/RESULTS.md, select on 14.2 M rows, 10 to 47 s.
_QUERY_S_PER_MILLION = 3.0
_GROUP_GROWTH = 1.14  # of group_pool with images, benchmarks/RESULTS.md
_GROUPED = 300
_NO_IMAGE = "not measured: the sample holds no image for it"


def gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


class Trials:
    """Of the stages that have work, in their order: each may leave what those after it read."""

    def __init__(
        self,
        survey: Survey,
        plans: Mapping[str, StagePlan],
        machines: Machines,
        scratch: Path,
        seconds: float,
        seed: int,
    ) -> None:
        self.config, self.survey, self.plans = survey.config, survey, plans
        self.machines, self.scratch = machines, scratch
        self.stages = [stage for stage in stages(self.config) if plans[stage.name].of("run")]
        self.on_gpus = machines.gpus > 0 and self.config.placement.use_gpu is not False
        self.device = "cuda" if self.on_gpus and gpus_here() else "cpu"
        state = State(survey, Workspace(self.config.workspace), FileDigests(self.config.workspace))
        setup = Setup(self.config, survey.classes, {})
        if any(stage.networks for stage in self.stages):
            check_networks(setup)
        self.seconds = seconds * _SHARE_OF_TIME / max(1, sum(not isinstance(s, QueryStage) for s in self.stages))
        self.sample = draw_sample(state, setup, seed, self.seconds)
        stale = {stage.name for stage in self.stages}
        self.base = StandIns(state, stale, self.sample, scratch, _VALIDATED[self.device])
        side = round(self.config.teacher.image_size / self.config.teacher.crop_pct)
        self.feed = measure_feed(self.base.rows(("pool",)), side)

    def estimate(self, stage: Stage) -> Estimate:
        of_shape: dict[type[Stage], Callable[[Any], Estimate]] = {
            PartStage: self._catalog if stage.per == "shard" else self._parts,
            ArtifactStage: self._artifact,
            QueryStage: self._group_pool if stage.name == "group_pool" else self._query,
            TrainStage: self._training,
        }
        return of_shape[type(stage)](stage)

    def notes(self) -> tuple[str, ...]:
        """What is assumed of all stages."""
        found = ["no copy is taken out of the pool, so that label and what follows may have less to do"]
        if any(planned.perhaps for plan in self.plans.values() for planned in plan.units):
            found.append("images that dedupe removed and now leaves in the pool are not counted")
        if self.sample.estimated:
            found.append(f"images of {', '.join(self.sample.estimated)} are reckoned from bytes: not all was scanned")
        found.append("each worker reads as fast as one does here; Ray's start is not counted")
        return tuple(found)

    # parts

    def _num_images(self, stage: PartStage) -> int:
        """Of the units that run: what the plan says of a part that is catalogued, else what its shard holds. How many
        images get another verdict is not known: they are not counted, and ``notes`` says so."""
        images = 0.0
        for planned in self.plans[stage.name].of("run"):
            if planned.perhaps:
                continue
            if stage.per == "input":
                images += self.sample.num_images((planned.name,))
            elif stage.per == "part" and planned.unit is not None:
                images += planned.unit.num_rows
            else:
                images += self.sample.images.get(planned.name, 0)
        return round(images)

    def _workers(self, stage: PartStage) -> tuple[int, int]:
        """(workers, threads of each), as the runner has it; not more workers than parts."""
        placement, parts = self.config.placement, len(self.plans[stage.name].of("run"))
        if placement.runner == "local":
            return 1, self.machines.cpus
        most = placement.num_workers or max(1, self.machines.cpus // placement.cpus_per_worker)
        return max(1, min(most, parts)), placement.cpus_per_worker

    def _catalog(self, stage: PartStage) -> Estimate:
        scan, (workers, _) = self.sample.scan, self._workers(stage)
        count = max(1, scan.rows.num_rows)
        size = written_bytes(stage, scan.rows, self.base.workspace) / count
        speed = Speed(count, scan.seconds, scan.cpu_seconds, 0.0, size)
        return of_parts(stage.name, self._num_images(stage), speed, workers, self.machines, None, "reading")

    def _parts(self, stage: PartStage) -> Estimate:
        images, (workers, threads), on_gpu = self._num_images(stage), self._workers(stage), self._wants_gpu(stage)
        if on_gpu and self.device == "cpu":
            return self._elsewhere(stage, images)
        setup = self.base.setup(stage, min(threads, os.cpu_count() or 1), self.device if on_gpu else "cpu")
        roles = self.survey.inputs_of(stage.roles(self.config))
        rows = self.sample.of(roles[:1] if stage.per == "input" else roles)
        speed = measure_part(stage, setup, rows, self.seconds, self.base.workspace, self._kept(stage, rows))
        if speed is None:
            return Estimate(stage.name, images, notes=(_NO_IMAGE,))
        if on_gpu:
            found = on_gpus(stage.name, images, speed.rate, self.machines.gpus, self.machines, self.feed)
            return replace(found, gigabytes=images * speed.bytes_per_image / 1e9)
        work = _WORK.get(stage.name, "network")
        found = of_parts(stage.name, images, speed, workers, self.machines, self.feed, work)
        is_sampled = stage.table == "pairs" and "index_protected" in self.base.stale
        return replace(found, notes=(self._index_note(),)) if is_sampled else found

    def _kept(self, stage: PartStage, rows: pa.Table) -> pa.Table | None:
        """What is there already of the sampled images and still holds, judged by the first part that is stale."""
        units = (planned.unit for planned in self.plans[stage.name].of("run"))
        stale = next((unit for unit in units if unit and unit.previous), None)
        if stale is None:
            return None
        workspace = self.base.state.workspace
        with workspace.connect(stage.table) as tables:
            tables.register("sampled", rows.select(["image_id"]))
            query = f'SELECT * FROM "{stage.table}" SEMI JOIN sampled USING (image_id) ORDER BY ALL'
            table = workspace.tables[stage.table]
            return rows_that_hold(stage, stale, table, tables.sql(query).to_arrow_table().cast(table.contract.schema()))

    def _index_note(self) -> str:
        indexed, whole = (
            len(self.base.protected),
            self.base.num_images(stage_named(self.config, "index_protected").roles(self.config)),
        )
        return f"searched an index of {indexed:,} of {whole:,} protected images; a search takes longer in a larger one"

    def _wants_gpu(self, stage: Stage) -> bool:
        searches = stage.table == "pairs" and self.config.placement.dedupe_on_gpu
        return self.on_gpus and (bool(stage.networks) or searches)

    def _elsewhere(self, stage: Stage, images: int, gpus: int | None = None) -> Estimate:
        same = "label" if stage.name == "check_teacher" else stage.name
        rate = self.machines.gpu_rates.get(stage.name, self.machines.gpu_rates.get(same))
        return on_gpus(stage.name, images, rate, gpus or self.machines.gpus, self.machines, self.feed)

    # artifacts

    def _artifact(self, stage: ArtifactStage) -> Estimate:
        rows, images, tried, config = self._trial_of(stage)
        if not rows.num_rows:
            return Estimate(stage.name, images, notes=(_NO_IMAGE,))
        on_gpu = self._wants_gpu(stage)
        if on_gpu and self.device == "cpu":
            return self._elsewhere(stage, images, 1)
        wanted = self.machines.cpus if self.config.placement.runner == "local" else self.machines.node_cpus
        threads = min(wanted, os.cpu_count() or 1)
        setup = self.base.setup(stage, threads, self.device if on_gpu else "cpu", config)
        if stage.name == "check_dedupe":  # canaries are made of the images that are at hand
            setup = replace(setup, artifacts={"index_protected": self.base.sampled_index})
        speed = measure_artifact(stage, setup, rows, self.scratch / f"trial-{stage.name}", tried)
        found = of_artifact(stage.name, images, speed, threads, wanted, self.feed, _WORK.get(stage.name, "network"))
        return replace(found, gpus=int(on_gpu))

    def _trial_of(self, stage: ArtifactStage) -> tuple[pa.Table, int, int, RunConfig]:
        """(rows to try it on, images it has to do, images of the trial, configuration of the trial)."""
        rows, images = self.base.rows(stage.roles(self.config)), self.base.num_images(stage.roles(self.config))
        if stage.name == "index_protected":
            return self.base.protected, images, len(self.base.protected), self.config
        if stage.name == "check_dedupe":
            planted = min(_CANARIES, self.config.dedupe.canaries)
            return self.base.protected, self.config.dedupe.canaries, max(1, planted), lenient(self.config, planted)
        from ssld_pipeline.stages.hold_out import MAX_IMAGES

        if stage.name == "hold_out":
            return rows, images, len(rows), self.config
        rows = spread(rows, _CHECKED)
        return rows, min(MAX_IMAGES, images), len(rows), lenient(self.config, _CANARIES)

    # queries

    def _query(self, stage: QueryStage) -> Estimate:
        images = self.base.num_images(("pool",))
        hours = images / 1e6 * _QUERY_S_PER_MILLION / 3600
        note = f"not measured: taken to be {_QUERY_S_PER_MILLION:g} s per million images in the driver"
        return Estimate(stage.name, images, hours=hours, bottleneck="DuckDB", notes=(note,))

    def _group_pool(self, stage: QueryStage) -> Estimate:
        """Tried on looks of the sample."""
        import duckdb

        rows, images = self.base.rows(("pool",)).slice(0, _GROUPED), self.base.num_images(("pool",))
        look = stage_of(self.config, "look", PartStage)
        looks = look.open(self.base.setup(look, os.cpu_count() or 1))(rows).rows
        if not looks.num_rows:
            return Estimate(stage.name, images, notes=(_NO_IMAGE,))
        with duckdb.connect() as tables:
            tables.register("looks", looks)
            tables.register("catalog", rows)
            started = time.monotonic()
            stage.query(tables, self.config)
        seconds = (time.monotonic() - started) * (images / looks.num_rows) ** _GROUP_GROWTH
        growth = f"taken to grow as images^{_GROUP_GROWTH}, from a sample of {looks.num_rows}"
        note = f"in the driver, pixels by one process where the run has up to eight; {growth}"
        return Estimate(stage.name, images, hours=seconds / 3600, bottleneck="search", notes=(note,))

    # training

    def _training(self, stage: TrainStage) -> Estimate:
        from ssld_pipeline.training.fit import Execution
        from ssld_pipeline.training.schedule import num_steps

        placement, data = self.config.placement, self.base.train_data(stage)
        parts = self.config.recipes()[stage.name].num_micro_batches
        allowed = placement.workers_for(parts) if placement.runner == "ray" else (1,)
        room = self.machines.gpus if self.on_gpus else self.machines.cpus
        workers = max((number for number in allowed if number <= room), default=allowed[0])
        job = stage.job(self.base.setup(stage), data)
        mines = "pool" in job.roles
        total = data.num_labeled + data.num_mined if mines else self.base.num_images(stage.roles(self.config))
        steps, batch_size, notes = (
            num_steps(job.settings, total),
            job.settings.batch_size,
            self._training_notes(job, mines, workers),
        )
        if self.on_gpus and self.device == "cpu":
            found = self._elsewhere(stage, steps * batch_size, min(workers, self.machines.gpus))
            return replace(found, to_do=steps, unit="steps", notes=(*found.notes, *notes))
        share = min(self.machines.cpus // workers, self.machines.node_cpus)
        threads = min(placement.train_threads or max(1, share), os.cpu_count() or 1)
        execution = Execution(threads, placement.loader_threads, self.device, placement.amp)
        validated = min(_VALIDATED[self.device], len(self.base.rows(("protected",)))) if job.settings.validations else 0
        folder = self.scratch / f"trial-{stage.name}"
        speed = measure_training(job, execution, workers, validated, self.seconds, folder)
        seen = job.settings.validations * self.base.num_images(("protected",))
        found = of_training(stage.name, steps, batch_size, speed, workers, seen, self.feed)
        return replace(
            found,
            gpus=workers if self.device == "cuda" else 0,
            gigabytes=2 * self.base.model_bytes(stage.name) / 1e9,  # in its folder, and published
            notes=(*found.notes, *notes),
        )

    def _training_notes(self, job: TrainJob, mines: bool, workers: int) -> tuple[str, ...]:
        notes = []
        if mines and job.settings.steps is None and "select" in self.base.stale:
            notes.append(f"taken to mine {self.base.num_mined:,} images, the most that select can")
        if self.on_gpus and workers < self.machines.gpus:
            idle = self.machines.gpus - workers
            notes.append(f"{workers} training processes (placement.train_workers): {idle} GPUs stand idle")
        return tuple(notes)
