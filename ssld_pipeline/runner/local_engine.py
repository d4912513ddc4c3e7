"""Everything in this process, one unit after another: for debugging, and for machines without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ssld_pipeline.pipeline import stage_of
from ssld_pipeline.runner.engine import Training
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import PartWorker, Receipt, WorkerSpec, build_artifact
from ssld_pipeline.stages.stage import TrainData, TrainStage
from ssld_pipeline.store.part import Part


class LocalEngine:
    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt]:
        worker = PartWorker(spec)
        for unit in units:
            yield worker.do(unit)

    def build(self, spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
        return build_artifact(spec, unit)

    def require_resources(self, spec: WorkerSpec) -> None:
        pass

    def fit(
        self, trainings: Sequence[Training], data: TrainData, at_row: Callable[[dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        from ssld_pipeline.training.fit import Execution, fit_together

        specs = [training.spec for training in trainings]
        jobs = [stage_of(spec.config, spec.stage, TrainStage).job(spec.setup(), data) for spec in specs]
        first, placement = specs[0], specs[0].config.placement
        execution = Execution(
            num_threads=placement.train_threads or first.num_threads,
            loader_threads=placement.loader_threads,
            device=first.device,
            amp=placement.amp,
            checkpoint_every_s=placement.checkpoint_every_s,
            norm_batches_per_pass=placement.norm_batches_per_pass,
            compile=placement.compile_training,
            cache=placement.cache,
        )
        return fit_together(
            jobs,
            [training.folder for training in trainings],
            fingerprints=[training.fingerprint for training in trainings],
            execution=execution,
            report=at_row,
        )

    def close(self) -> None:
        pass
