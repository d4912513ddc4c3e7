"""Bring every stage up to date, in order: plan it, do what is missing, commit, go on."""

from __future__ import annotations

import difflib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stage_named, stages
from ssld_pipeline.runner.class_guard import accept_classes
from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.label_check import count_labels, require_labels
from ssld_pipeline.runner.label_check import figures as label_figures
from ssld_pipeline.runner.lossy_inputs import refuse_lossy_inputs
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.progress import Progress, StageReport
from ssld_pipeline.runner.shapes.table import plan_stage, shape_of
from ssld_pipeline.runner.shapes.trainings import require_batches, require_guarded
from ssld_pipeline.runner.survey import Survey
from ssld_pipeline.stages.networks import check_networks
from ssld_pipeline.stages.stage import PartStage, Setup, Stage, TrainStage

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.engine import Engine

_ORPHAN_HOURS = 24  # what killed workers left behind; younger files may be another run's work in progress


def run_pipeline(
    survey: Survey,
    engine: Callable[[], Engine],
    progress: Progress,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    new_classes: bool = False,
) -> list[StageReport]:
    """Do what ``plan_run`` announces, stage by stage. ``engine`` is called once, when the first work is found.

    ``only``: these stages, on what is committed upstream; none: all. ``new_classes``: what was labelled with another
    class list may be labelled again. Raises UserError for a stage that cannot continue; what was committed stays.
    """
    context = RunContext(survey, engine, progress)
    checked = _checked(survey.config, only)
    chosen = _chosen(survey.config, (*checked, *only), until)
    context.chosen = frozenset(stage.name for stage in chosen)
    accept_classes(context.workspace, survey.classes, new_classes)
    _check(chosen, context)
    reports: list[StageReport] = []
    for stage in chosen:
        for member in _of_one_pass(stage, chosen) if only else ():
            _require_upstream(member, context, checked.get(member.name, member.name))
        if not reports and stage.name != "catalog":  # a run that was refused may have committed its catalog
            require_labels(context.config, survey.classes, count_labels(context.workspace, context.config))
        for other in upstream_of(stage, context.config) if only else ():
            if isinstance(other, PartStage):
                refuse_lossy_inputs(other, context.state())
        reports.append(_bring(stage, context))
        trainings = [s for s in chosen if isinstance(s, TrainStage)]
        if stage.name == "catalog":
            state = context.state()
            for training in trainings:
                require_batches(training, state)
        if stage.name == "guard_training" and trainings:
            require_guarded(context.state())
    for table in context.workspace.tables.values():
        table.note_last_commit()
        table.num_orphans_removed(_ORPHAN_HOURS)
    return reports


def _checked(config: RunConfig, only: Sequence[str]) -> dict[str, str]:
    """Check -> a stage of ``only`` before which it belongs: no stage is run without its checks, even by itself."""
    known = {stage.name: stage for stage in stages(config)}
    found: dict[str, str] = {}
    waiting = [(name, name) for name in only if name in known]
    while waiting:
        name, asked = waiting.pop()
        for check in known[name].checks:
            if check not in only and check not in found:
                found[check] = asked
                waiting.append((check, asked))
    return found


def _chosen(config: RunConfig, only: Sequence[str], until: str | None) -> list[Stage]:
    """The stages to bring up to date. UserError for a name that is no stage."""
    names = [stage.name for stage in stages(config)]
    for option, name in [*(("--only", name) for name in only), *([("--until", until)] if until else [])]:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{option} {name}: no such stage; {hint}stages are {', '.join(names)}")
    last = names.index(until) if until else len(names)
    return [s for s in stages(config)[: last + 1] if (not only or s.name in only) and s.enabled(config)]


def _check(chosen: Sequence[Stage], context: RunContext) -> None:
    """What would fail after days. Only where a network is going to be used: it takes seconds to load."""
    with_network = [stage for stage in chosen if stage.networks]
    changing = {made.stage for made in plan_run(context.survey) if made.changes} if with_network else set()
    working = [stage for stage in with_network if stage.name in changing]
    if working:
        check_networks(Setup(context.config, context.survey.classes, {}))
    for stage in working:
        if isinstance(stage, TrainStage):
            context.engine.require_resources(context.spec(stage))


def _bring(stage: Stage, context: RunContext) -> StageReport:
    started = time.monotonic()
    state = context.state()
    made = plan_stage(stage, state)
    context.digests.remember()
    report = StageReport(stage.name, reused=len(made.of("reuse")))
    shape_of(stage).bring(stage, made, state, context, report)
    reads_labels = stage.name in ("catalog", "evaluate")
    labels = count_labels(context.workspace, context.config) if reads_labels else []
    shown = [i for i in labels if stage.name == "catalog" or i.role == "protected"]
    report.figures |= label_figures(shown, context.survey)
    report.seconds = time.monotonic() - started
    context.progress.finished(report)
    require_labels(context.config, context.survey.classes, labels)
    if isinstance(stage, PartStage):
        refuse_lossy_inputs(stage, context.state())
    return report


def _of_one_pass(stage: Stage, chosen: Sequence[Stage]) -> list[Stage]:
    """The stage, and those that are trained in its pass: what any of them needs must be there before."""
    together = stage.together if isinstance(stage, TrainStage) else ()
    return [other for other in chosen if other.name == stage.name or other.name in together]


def _require_upstream(stage: Stage, context: RunContext, asked: str) -> None:
    """UserError where what the stage depends on is not up to date: with --only nobody has brought it there. Of tables
    that is all the way back: an image that dedupe has come to remove must not be selected. Only addresses of inputs
    that lie elsewhere now are replaced here: it changes no content, and every read needs them. ``asked``: the stage
    that the user named."""
    for other in upstream_of(stage, context.config):
        is_measured = stage.name == "evaluate" and isinstance(other, TrainStage) and other.name in context.config.nodes
        if is_measured and context.workspace.artifact(other.name).usable_record() is None:
            continue  # a model that is not there yet has no accuracy; one that is out of date must not have one
        made = plan_stage(other, context.state())
        if made.of("move") and not made.changes:
            _bring(other, context)
        if made.changes:
            why = "; ".join(reason for reason, _ in made.reasons()[:2])
            raise UserError(
                f"{asked} depends on {other.name}, which is out of date ({why}). "
                f"Bring it up to date first: ssld run CONFIG --until {asked}"
            )


def upstream_of(stage: Stage, config: RunConfig) -> list[Stage]:
    """What made the tables and artifacts that the stage reads, what that depends on, and so on, in the order of the
    pipeline. Models that are measured end it: they may be older than the tables."""
    writers: dict[str, list[Stage]] = defaultdict(list)
    for other in stages(config):
        if other.table:
            writers[other.table].append(other)
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        current = waiting.pop()
        makers = [maker for table in current.tables_read(config) for maker in writers[table]]
        makers += [stage_named(config, name) for name in current.artifacts]
        new = [maker for maker in makers if maker.name not in found and maker.enabled(config)]
        found |= {maker.name for maker in new}
        waiting += [maker for maker in new if isinstance(stage, TrainStage) or not isinstance(maker, TrainStage)]
    return [other for other in stages(config) if other.name in found]
