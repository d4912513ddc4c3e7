"""``ssld``: the verbs. Exit codes: 0 done, 1 a bug or a broken law, 2 a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssld_pipeline import __version__
from ssld_pipeline.errors import UserError

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.engine import Engine
    from ssld_pipeline.store.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="SSLD as a pipeline: remove leaks from an image pool, mine it with a teacher, distil a small student.",
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="the run's YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. select.per_class=400")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a script to read")]
NewClasses = Annotated[bool, typer.Option("--new-classes", help="accept a changed class list: label every image again")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to connect to; default: RAY_ADDRESS, else this machine")]


_READERS = ("duckdb", "_duckdb", "pyarrow", "deltalake", "_internal", "json", "safetensors_rust")  # of their errors
_loaded: list[RunConfig] = []  # the configs of this process

# Set before torch is loaded, here and in every worker.
ENVIRONMENT = {
    # Threads that wait must sleep, not spin: where decoding and a network share cores, a training step with two
    # spinning threads was seen to take 900 ms instead of 65.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    # Large pages for tensors on the CPU: MobileNetV2 at 160 px, 2 threads: 213 instead of 142 images/s forward.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def main() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _loaded.clear()
    try:
        app()
    except UserError as error:
        print(f"ssld: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        damage = _damage_behind(error)
        if damage is None:
            raise
        print(f"ssld: {damage}", file=sys.stderr)
        sys.exit(2)


def _damage_behind(error: Exception) -> UserError | None:
    """The damaged file that made a library fail. None where it is no library's error, or every file is whole: then it
    is a bug."""
    room = type(error).__module__.split(".")[0]
    if not (room in _READERS or isinstance(error, OSError)):
        return None
    from ssld_pipeline.verify.files import first_damage

    return next((found for loaded in _loaded if (found := first_damage(_workspace(loaded), loaded))), None)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ssld_pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigPath,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="run only this stage or training (repeatable), from what is committed upstream"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="NAME", help="stop after this stage or training")] = None,
    new_classes: NewClasses = False,
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Bring every stage up to date; only what changed is computed."""
    _bring_up_to_date(_load(config, overrides), only or (), until, address, new_classes=new_classes)


@app.command()
def presets(json: AsJson = False) -> None:
    """List the published recipes that the key `preset` of a training may name."""
    from ssld_pipeline.config.presets import describe_preset, preset_names
    from ssld_pipeline.terminal import console

    rows = [{"preset": name, "description": describe_preset(name)} for name in preset_names()]
    if json:
        console.print_json(rows)
    else:
        console.print_rows(rows)


def _print_resolved(config: Path, overrides: tuple[str, ...], json: bool) -> None:
    from ssld_pipeline.config.resolved import as_yaml, resolved_settings
    from ssld_pipeline.terminal import console

    settings = resolved_settings(config, overrides)
    if json:
        console.print_json([{"key": ".".join(s.key), "value": s.value, "from": s.origin} for s in settings])
    else:
        typer.echo(as_yaml(settings))


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    json: AsJson = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="try the stages on a sample; estimate time and cost")
    ] = False,
    cpus: Annotated[int | None, typer.Option(min=1, help="cores of the cluster; default: of this machine")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of the cluster; default: of this machine")] = None,
    node_cpus: Annotated[int | None, typer.Option(min=1, help="cores of its largest node; default: --cpus")] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="price of a GPU for an hour")] = None,
    cpu_price: Annotated[float | None, typer.Option(min=0, help="price of a core for an hour")] = None,
    gpu_rate: Annotated[
        str,
        typer.Option(metavar="STAGE=N,...", help="images/s of one GPU, measured elsewhere, if this machine has none"),
    ] = "",
    seconds: Annotated[float, typer.Option(min=1, help="approximate measuring time, seconds")] = 60,
    seed: Annotated[int, typer.Option(help="random seed of the sample")] = 0,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="show every setting and where it comes from, presets included")
    ] = False,
) -> None:
    """Show what `run` would do and why; change nothing."""
    if resolved:
        _print_resolved(config, tuple(overrides or ()), json)
        return
    from ssld_pipeline.runner.plan import plan_run
    from ssld_pipeline.runner.survey import survey
    from ssld_pipeline.terminal import console

    found = survey(_load(config, overrides))
    if calibrate:
        from ssld_pipeline.runner.calibrate.calibration import calibrate_run, gpu_rates
        from ssld_pipeline.runner.calibrate.estimate import Machines
        from ssld_pipeline.runner.calibrate.trials import gpus_here
        from ssld_pipeline.terminal.calibration import print_calibration

        cores, rates = cpus or os.cpu_count() or 1, gpu_rates(found.config, gpu_rate)
        present = gpus_here() if gpus is None else gpus
        machines = Machines(cores, present, node_cpus or cores, cpu_price, gpu_price, rates)
        measured = calibrate_run(found, machines, seconds, seed)
        if json:
            console.print_json(measured.to_json())
        else:
            print_calibration(measured)
        return
    if cpus or gpus is not None or node_cpus or gpu_rate or gpu_price is not None or cpu_price is not None:
        raise UserError("plan: options for machines, prices and rates need --calibrate; add it, or leave them out")
    plans = plan_run(found)
    if json:
        console.print_json([p.to_json() for p in plans])
    else:
        console.print_plan(plans)


@app.command()
def submit(
    config: ConfigPath,
    address: Annotated[str, typer.Option(help="dashboard of the cluster, http://HEAD:8265")],
    follow: Annotated[bool, typer.Option("--follow", help="print the job's log and exit with its exit code")] = False,
    new_classes: NewClasses = False,
    overrides: Overrides = None,
) -> None:
    """Send the run to a Ray cluster as a job, together with this package."""
    from ssld_pipeline.runner.class_guard import require_same_classes
    from ssld_pipeline.runner.on_ray.submit import follow_job, submit_job

    loaded = _load(config, overrides)
    if not new_classes:
        require_same_classes(loaded, _workspace(loaded))
    job = submit_job(loaded, address, ENVIRONMENT, *(["--new-classes"] if new_classes else []))
    print(job.id)
    if follow:
        raise typer.Exit(follow_job(job))


@app.command()
def status(config: ConfigPath, overrides: Overrides = None, json: AsJson = False) -> None:
    """Show the workspace: tables, trainings, rejects, accuracies."""
    from ssld_pipeline.queries.status import workspace_status
    from ssld_pipeline.terminal import console
    from ssld_pipeline.terminal.trainings import state_rows

    loaded = _load(config, overrides)
    found = workspace_status(_workspace(loaded), loaded)
    if json:
        console.print_json(found)
        return
    console.out.print(f"workspace {found['workspace']}", markup=False)
    console.print_rows([{"table": name, **row} for name, row in found["tables"].items()])
    for title in ("canaries", "verdicts", "lists", "labels", "rejects", "evaluations"):
        if found[title]:
            console.print_rows(found[title], title)
    console.print_rows(state_rows(found["trainings"]), "trainings")
    listed = {row["training"] for row in found["trainings"]}
    for name, figures in found["artifacts"].items():
        if name not in listed:
            console.out.print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in figures.items()), markup=False)


@app.command()
def inspect(
    config: ConfigPath,
    table: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="a table (soft_labels, catalog, pairs, looks, repeats, duplicates, manifest, rejects, evaluations) or "
            "a training of the config",
        ),
    ] = "soft_labels",
    class_id: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="best, border and worst images of a class, by name or number"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="ID", help="an image_id: its picture, its labels and its rows in every table"),
    ] = None,
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Show a table, one class of it, one image, or one training."""
    from ssld_pipeline.queries import inspection
    from ssld_pipeline.queries.class_list import class_list
    from ssld_pipeline.queries.trainings import inspect_training, training_names
    from ssld_pipeline.terminal import console
    from ssld_pipeline.terminal.inspection import print_class, print_image, print_table
    from ssld_pipeline.terminal.trainings import print_training

    loaded = _load(config, overrides)
    workspace = _workspace(loaded)
    names = training_names(workspace, loaded)
    if table in names and class_id is None and image is None:
        found = inspect_training(workspace, loaded, table)
        (console.print_json if json else print_training)(found)
        return
    inspection.known(table, names)
    classes = class_list(loaded, workspace)
    if image is not None:
        found = inspection.rows_of_image(workspace, image)
        if json:
            console.print_json({**found, "labels": inspection.labels_of(found.get("soft_labels", ()), classes)})
        else:
            print_image(found, image, classes)
    elif class_id is not None:
        number = classes.number(class_id)
        if json:
            console.print_json({table: inspection.rows_of_class(workspace, table, number, classes)})
        else:
            print_class(workspace, table, number, classes)
    elif json:
        found = inspection.summary(workspace, table)
        more = inspection.distributions(workspace, classes) if table == "soft_labels" else {}
        console.print_json({**found, **more})
    else:
        print_table(workspace, table, classes)


@app.command()
def sql(
    config: ConfigPath,
    query: Annotated[str, typer.Argument(metavar="SELECT")],
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Query the tables in SQL (DuckDB)."""
    from ssld_pipeline.queries.sql import rows_of
    from ssld_pipeline.terminal import console

    rows = rows_of(_workspace(_load(config, overrides)), query)
    if json:
        console.print_json(rows)
    else:
        console.print_rows(rows)


@app.command()
def verify(
    config: ConfigPath,
    deep: Annotated[bool, typer.Option("--deep", help="read every file: compare it with its digest")] = False,
    recompute: Annotated[
        int, typer.Option(min=0, metavar="N", help="label N rows of soft_labels again and compare")
    ] = 0,
    seed: Annotated[int, typer.Option(help="random seed of the rows to label again")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="largest difference of a probability beyond its rounding; default: 0.01, with placement.amp 0.05",
        ),
    ] = None,
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Check the laws of the tables, every byte, stored labels against new ones; exit 1 if one is broken or differs."""
    from ssld_pipeline.terminal import console
    from ssld_pipeline.verify.files import verify_files
    from ssld_pipeline.verify.laws import verify_laws

    loaded = _load(config, overrides)
    verdicts = list(verify_files(_workspace(loaded), loaded)) if deep else []
    is_whole = not any(v.num_broken for v in verdicts)  # of damaged tables the other laws say nothing
    if is_whole:
        verdicts += verify_laws(_workspace(loaded), loaded)
    found = None
    if recompute and is_whole:
        from ssld_pipeline.verify.recompute import recompute_labels

        found = recompute_labels(loaded, recompute, seed, tolerance)
    if json:
        lawful = [v.to_json() for v in verdicts]
        console.print_json({"laws": lawful, "recomputed": found.to_json()} if found else lawful)
    else:
        console.print_verdicts(verdicts)
        if found:
            console.print_recomputed(found)
    if any(v.num_broken for v in verdicts) or (found and found.differences):
        raise typer.Exit(1)


@app.command()
def report(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option(help="file to write; default: report.html in a local workspace")] = None,
    overrides: Overrides = None,
) -> None:
    """Write one self-contained HTML page about the run."""
    from ssld_pipeline.report.write import write_report
    from ssld_pipeline.runner.survey import class_names

    loaded = _load(config, overrides)
    print(write_report(loaded, class_names(loaded), out))


@app.command()
def evaluate(config: ConfigPath, overrides: Overrides = None, address: Address = None, json: AsJson = False) -> None:
    """Measure the finished models on the protected inputs."""
    from ssld_pipeline.queries.sql import rows_of
    from ssld_pipeline.terminal import console

    loaded = _load(config, overrides)
    _bring_up_to_date(loaded, ("catalog", "evaluate"), None, address, quiet=json)
    rows = rows_of(_workspace(loaded), "SELECT * EXCLUDE (part) FROM evaluations ORDER BY ALL")
    if json:
        console.print_json(rows)
    else:
        console.print_rows(rows)


@app.command("fit-teacher")
def fit_teacher(config: ConfigPath, overrides: Overrides = None, address: Address = None) -> None:
    """Finetune the teacher to the run's classes and measure it."""
    loaded = _load(config, overrides)
    if loaded.teacher.fit is None:
        raise UserError("fit-teacher: the config has no section teacher.fit, so its teacher is used as it is")
    _bring_up_to_date(loaded, ("catalog", "index_protected", "hold_out", "fit_teacher", "check_teacher"), None, address)


@app.command()
def select(config: ConfigPath, overrides: Overrides = None, address: Address = None) -> None:
    """Select the images the student is trained on, from the committed labels."""
    _bring_up_to_date(_load(config, overrides), ("select",), None, address)


@app.command("dedupe-sweep")
def dedupe_sweep(
    config: ConfigPath,
    samples: Annotated[int, typer.Option(min=0, help="pairs to show on each side of a threshold")] = 3,
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Show how many pool images other dedupe thresholds would remove, and the pairs at the border."""
    from ssld_pipeline.queries.dedupe_sweep import sweep_dedupe
    from ssld_pipeline.terminal import console

    loaded = _load(config, overrides)
    found = sweep_dedupe(_workspace(loaded), loaded, samples)
    if json:
        console.print_json(found.to_json())
    else:
        console.print_dedupe_sweep(found)


@app.command("select-sweep")
def select_sweep(
    config: ConfigPath,
    per_class: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="values to try; default: around the configured one")
    ] = None,
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Show totals, class balance and lowest scores for a range of select.per_class."""
    from ssld_pipeline.queries.manifest_sweep import SHOWN, sweep_manifest
    from ssld_pipeline.runner.class_guard import require_same_classes
    from ssld_pipeline.runner.survey import class_names
    from ssld_pipeline.terminal import console

    loaded = _load(config, overrides)
    require_same_classes(loaded, _workspace(loaded))
    values = _numbers("--per-class", per_class) if per_class else ()
    rows = sweep_manifest(_workspace(loaded), loaded.select, len(class_names(loaded)), values)
    if json:
        console.print_json(rows)
    else:
        console.print_rows([{name: row[name] for name in SHOWN} for row in rows])


@app.command()
def diff(
    config: ConfigPath,
    table: Annotated[str, typer.Argument(help="manifest")],
    before: Annotated[int, typer.Option("--from", metavar="VERSION", help="version of the table's Delta log")],
    after: Annotated[int | None, typer.Option("--to", metavar="VERSION", help="default: the present one")] = None,
    class_id: Annotated[int | None, typer.Option("--class", metavar="N", help="list the images of class N too")] = None,
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Show which images entered and left the manifest between two versions, by class."""
    from ssld_pipeline.queries.manifest_diff import diff_manifests
    from ssld_pipeline.runner.survey import class_names
    from ssld_pipeline.terminal import console

    if table != "manifest":
        raise UserError(f"diff {table}: only the manifest can be compared with itself; say: ssld diff CONFIG manifest")
    loaded = _load(config, overrides)
    found = diff_manifests(_workspace(loaded), class_names(loaded), before, after, class_id)
    if json:
        console.print_json(found.to_json())
    else:
        console.print_rows(found.classes, f"version {found.before} to {found.after}")
        if class_id is not None:
            console.print_rows(found.images, f"class {class_id}")


@app.command()
def export(
    config: ConfigPath,
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="the model of a training, fit_teacher, a table (manifest, duplicates, ...), or removals",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder (model, packed images) or file (table) to write")],
    format: Annotated[
        str | None,
        typer.Option(
            help="model: timm or pt2; table: csv or parquet; manifest also: paddleclas, webdataset or parquet-images; "
            "removals (the pool images that dedupe removes): csv or txt"
        ),
    ] = None,
    shard_bytes: Annotated[int, typer.Option(min=1, help="packed images: bytes of images in a shard")] = 256 << 20,
    images_per_shard: Annotated[int, typer.Option(min=1, help="packed images: images in a shard")] = 10_000,
    seed: Annotated[int, typer.Option(help="packed images: random seed of their order")] = 0,
    overrides: Overrides = None,
) -> None:
    """Write a model for use elsewhere, a table as one file, or the manifest with its images."""
    from ssld_pipeline.export.images import Packing
    from ssld_pipeline.export.model import export_from

    packing = Packing(shard_bytes, images_per_shard, seed)
    for written in export_from(_load(config, overrides), what, out, format, packing):
        print(written, flush=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="folder for the drawn images, tables and models")] = Path("runs/demo"),
) -> None:
    """Draw a small world, run everything on it, and show what was gained."""
    from ssld_pipeline.demo.outcome import outcome
    from ssld_pipeline.demo.world import write_world
    from ssld_pipeline.report.write import write_report
    from ssld_pipeline.runner.survey import class_names
    from ssld_pipeline.terminal import console

    truth = write_world(folder)
    loaded = _load(folder / "demo.yaml", None)
    changed = _bring_up_to_date(loaded, (), None, None)
    console.print_rows(outcome(truth, _workspace(loaded), tuple(loaded.ordered_nodes())))
    page = folder / "workspace" / "report.html"
    if changed or not page.exists():
        write_report(loaded, class_names(loaded), page)
    console.out.print(
        ("" if changed else "nothing had changed, nothing was computed; ") + f"report: {page}", markup=False
    )


def _load(path: Path, overrides: Sequence[str] | None) -> RunConfig:
    from ssld_pipeline.config.load import load_config

    loaded = load_config(path, tuple(overrides or ()))
    _loaded.append(loaded)
    return loaded


def _numbers(option: str, text: str) -> tuple[int, ...]:
    if not all(item.strip().isdecimal() and int(item) for item in text.split(",")):
        raise UserError(f"{option} {text}: expected whole numbers above 0, as in 500,1000,2000")
    return tuple(int(item) for item in text.split(","))


def _workspace(config: RunConfig) -> Workspace:
    from ssld_pipeline.store.workspace import Workspace

    return Workspace(config.workspace)


def _bring_up_to_date(
    config: RunConfig,
    only: Sequence[str],
    until: str | None,
    address: str | None,
    quiet: bool = False,
    new_classes: bool = False,
) -> bool:
    """Whether anything was computed."""
    from ssld_pipeline.runner.run import run_pipeline
    from ssld_pipeline.runner.survey import survey
    from ssld_pipeline.terminal import console

    if quiet:
        console.out.quiet = True
    engines: list[Engine] = []

    def engine() -> Engine:
        engines.append(_engine(config, address))
        return engines[0]

    try:
        with console.RunView() as view:
            reports = run_pipeline(survey(config), engine, view, only=only, until=until, new_classes=new_classes)
    finally:
        for opened in engines:
            opened.close()
        console.out.quiet = False
    return any(r.ran or r.removed or r.moved for r in reports)


def _engine(config: RunConfig, address: str | None) -> Engine:
    if config.placement.runner == "local":
        from ssld_pipeline.runner.local_engine import LocalEngine

        return LocalEngine()
    from ssld_pipeline.runner.on_ray.engine import RayEngine

    return RayEngine(config.placement, address)


if __name__ == "__main__":
    main()
