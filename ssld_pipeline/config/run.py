"""The config file: one YAML document, validated whole, before any work starts.

Two kinds of settings live in two places: what can change a value (every section but one) and where and how fast it
runs (``placement``, which is part of no fingerprint).
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ssld_pipeline.config.settings import Settings, side_files_of
from ssld_pipeline.config.train import TrainSettings, section_of
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import Combine
from ssld_pipeline.stages.catalog import CatalogConfig
from ssld_pipeline.stages.dedupe import DedupeConfig
from ssld_pipeline.stages.label import LabelConfig
from ssld_pipeline.stages.select import SelectConfig
from ssld_pipeline.stages.teacher import TeacherNetworkConfig

Format = Literal["folder", "tar", "parquet", "list"]
Network = TypeVar("Network", bound=TeacherNetworkConfig)


class InputConfig(Settings):
    uri: str
    """Folder, file or glob that holds the images; local, or any fsspec location such as s3://."""
    format: Format
    """folder: class folders or flat. tar: plain or webdataset. parquet: bytes column or Hugging Face image struct.
    list: a text file of `path label` lines, paths relative to the file."""
    name: str | None = None
    """First part of every image_id of this input; default: the role. Needed where a role has several inputs."""

    @field_validator("name")
    @classmethod
    def _name_is_one_path_segment(cls, name: str | None) -> str | None:
        if name is not None and (name in ("", ".", "..") or "/" in name or name != name.strip()):
            raise ValueError(f"an input name must be one path segment, got {name!r}")
        return name


class InputsConfig(Settings):
    labeled: tuple[InputConfig, ...] = ()
    """Images with true labels (ImageNet-1k train)."""
    protected: tuple[InputConfig, ...] = ()
    """Images no copy of which may be trained on (ImageNet-1k val); labels are used for evaluation only."""
    pool: tuple[InputConfig, ...] = ()
    """Images to mine (ImageNet-22k); labels are never used."""

    @field_validator("labeled", "protected", "pool", mode="before")
    @classmethod
    def _one_or_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


class FitConfig(TrainSettings):
    """Finetunes the teacher's weights to the run's classes."""

    teacher: Literal["online"] = "online"
    """Without meaning here: it learns from labels."""

    epochs: float = Field(10, gt=0)
    """Passes over the images; ignored where `steps` is given."""
    batch_size: int = Field(64, gt=0)
    """Images per optimiser step over all workers."""
    lr: float = Field(0.01, gt=0)
    """Peak learning rate, after the warm-up."""
    warmup_epochs: float = Field(0.5, ge=0)
    """Linear warm-up from 0."""
    loss: Literal["ce"] = "ce"
    """The labels of `data`, or of the labeled inputs."""
    data: InputConfig | None = None
    """Labelled images to fit on; default: the labeled inputs."""


class OtherTeacherConfig(TeacherNetworkConfig):
    weights: str
    """safetensors file, or a checkpoint that torch reads with weights_only."""


class TeacherConfig(TeacherNetworkConfig):
    crop_pct: float = Field(0.875, gt=0, le=1)
    """image_size over the resized short side."""
    min_top1: float = Field(0.5, ge=0, le=1)
    """Lowest accuracy on labelled images with which labelling may start; wrong weights or class order give chance."""
    more: tuple[OtherTeacherConfig, ...] = ()
    """Further teachers. The label is the mean of what all of them say."""
    combine: Combine = "arithmetic"
    """arithmetic: the mean of the distributions. geometric: of their logarithms, normalised; what one teacher excludes
    all exclude."""
    fit: FitConfig | None = None
    """First finetune the weights to the run's classes. image_size and crop_pct are the teacher's unless given."""

    @model_validator(mode="before")
    @classmethod
    def _fit_at_own_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("fit"), dict):
            sizes = {k: data[k] for k in ("image_size", "crop_pct") if k in data}
            return {**data, "fit": {**sizes, **data["fit"]}}
        return data

    @model_validator(mode="after")
    def _fit_is_of_one_network(self) -> Self:
        for name in ("more", "class_map"):
            if self.fit and getattr(self, name):
                raise ValueError(
                    f"fit and {name} exclude each other: finetune each teacher in a run of its own (ssld fit-teacher), "
                    f"then name the weights it made here"
                )
        return self


class StudentConfig(Settings):
    model: str
    """`timm:<name>` or `torchvision:<name>`."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the model's constructor."""
    weights: str | None = None
    """Start from these weights, with a fresh classifier; null: from scratch, as the publication does."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel (RGB), for pixels scaled to [0,1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per channel (RGB), for pixels scaled to [0,1]."""


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
    """Processes of a training run; with GPUs, one each. Batch norm sees the images of its own process alone, batch_size
    / train_workers of them, so this is part of the recipe of a network that has it, and of one whose teacher has it and
    teacher_batch_norm: train. The model's record says how many images they were; a run that was begun with another
    number is not gone on with, and a finished model stays what it is."""
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
    evaluate looks at with one model after another, has as much more time as it has more images, times the models."""
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


class RunConfig(Settings):
    workspace: str
    """Where tables and models are kept: a local path or an fsspec URI."""
    inputs: InputsConfig
    """Where the images are, by role. Each role has one input or a list of them."""
    classes: str | None = None
    """Text file; line i names class i. Default: the sorted class folders of `labeled`."""
    teacher: TeacherConfig
    """The network that labels the pool and that the student is distilled from."""
    catalog: CatalogConfig = CatalogConfig()
    """How the inputs are cut into parts."""
    dedupe: DedupeConfig = DedupeConfig()
    """What counts as a copy of a protected image."""
    label: LabelConfig = LabelConfig()
    """What is stored of the teacher's word on a pool image."""
    select: SelectConfig = SelectConfig()
    """Which pool images the student is trained on."""
    student: StudentConfig
    """The network that is wanted in the end."""
    train: TrainSettings = TrainSettings()
    """Distil the student on the labelled and the mined images."""
    finetune: TrainSettings | None = None
    """Distil once more on the labelled images alone. What is absent is inherited from train; null: no such stage."""
    baseline: TrainSettings | None = None
    """Train the same student on the labelled images alone, with hard labels, for as many steps as train and finetune
    together unless it has `steps` (its `epochs` are not used); what is absent is inherited from train. Shows what the
    pool is worth. null: no such stage."""
    placement: PlacementConfig = PlacementConfig()
    """Where and how fast; is part of no fingerprint, and changes no result but as train_workers says."""

    @model_validator(mode="before")
    @classmethod
    def _inherit_from_train(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        train = data.get("train") or {}
        data = dict(data)
        for section, defaults in (("finetune", {}), ("baseline", {"loss": "ce"})):
            own = data.get(section)
            if isinstance(own, dict) and isinstance(train, dict):
                inherited = {
                    k: v for k, v in train.items() if not (k == "steps" and ("epochs" in own or section == "baseline"))
                }
                data[section] = {**inherited, **defaults, **own}
        return data

    @field_validator("baseline")
    @classmethod
    def _baseline_has_no_teacher(cls, baseline: TrainSettings | None) -> TrainSettings | None:
        if baseline is not None and baseline.loss != "ce":
            raise ValueError(f"loss must be ce, since a baseline learns from labels alone, not {baseline.loss}")
        return baseline

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> Self:
        """``local`` trains in one process."""
        workers = self.placement.train_workers if self.placement.runner == "ray" else 1
        sizes = {f"{section_of(stage)}.batch_size": s.batch_size for stage, s in self.trainings().items()}
        odd = [f"{name} ({size})" for name, size in sizes.items() if size % workers]
        if odd:
            raise ValueError(
                f"{workers} training processes (placement.train_workers) cannot share {', '.join(odd)} evenly; make "
                f"each a multiple of placement.train_workers"
            )
        return self

    @model_validator(mode="after")
    def _stored_views_are_what_is_trained_on(self) -> Self:
        for name, section in self._replaying():
            if self.label.views == 0:
                raise ValueError(f"{name}.teacher: stored needs stored views; set label.views to 1 or more")
            if section.image_size != self.teacher.image_size and section.mismatched_views == "refuse":
                raise ValueError(
                    f"{name}.image_size is {section.image_size}, but the stored labels are of views of "
                    f"{self.teacher.image_size} pixels (teacher.image_size); make them equal, or set "
                    f"{name}.mismatched_views: accept"
                )
            if section.teacher_batch_norm == "train":
                raise ValueError(
                    f"{name}.teacher_batch_norm: stored labels are made with the running statistics; set it to eval"
                )
            if section.min_crop_area != self.label.view_min_crop_area:
                raise ValueError(
                    f"{name}.min_crop_area is {section.min_crop_area}, but the stored views were cut with "
                    f"label.view_min_crop_area {self.label.view_min_crop_area}; make them equal"
                )
        return self

    def train_sections(self) -> dict[str, TrainSettings]:
        """Those of the student that are there, by name."""
        sections = {"train": self.train, "finetune": self.finetune, "baseline": self.baseline}
        return {name: section for name, section in sections.items() if section is not None}

    def trainings(self) -> dict[str, TrainSettings]:
        """The settings of every training that there is, by its stage."""
        fit: dict[str, TrainSettings] = {"fit_teacher": self.teacher.fit} if self.teacher.fit else {}
        return fit | self.train_sections()

    def _replaying(self) -> list[tuple[str, TrainSettings]]:
        return [(name, section) for name, section in self.train_sections().items() if section.replays]

    def replays_views(self) -> bool:
        """Whether a student is trained on stored views."""
        return bool(self._replaying())

    @model_validator(mode="after")
    def _what_select_asks_is_kept(self) -> Self:
        select, num_kept = self.select, self.label.num_kept
        if (select.assignment == "top_p" or select.min_per_class) and select.top_p > num_kept:
            raise ValueError(f"select.top_p must be at most label.num_kept ({num_kept}), got {select.top_p}")
        return self

    def named_inputs(self) -> dict[str, tuple[str, InputConfig]]:
        """Input name -> (role, input), in the order of the file; ``teacher`` is ``teacher.fit.data``."""
        named: dict[str, tuple[str, InputConfig]] = {}
        roles = [("labeled", self.inputs.labeled), ("protected", self.inputs.protected), ("pool", self.inputs.pool)]
        if self.teacher.fit and self.teacher.fit.data:
            roles.append(("teacher", (self.teacher.fit.data,)))
        for role, inputs in roles:
            for item in inputs:
                name = item.name or role
                if name in named:
                    raise UserError(
                        f"inputs.{role}: two inputs are called {name!r}; image_id must be unique, "
                        "so give each a 'name:'"
                    )
                named[name] = (role, item)
        return named

    def inputs_of(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the inputs that a list of roles or names means."""
        return tuple(name for name, (role, _) in self.named_inputs().items() if role in roles or name in roles)


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read, override (``key.sub=value``, the value is YAML) and validate; relative paths start at the file's folder.

    Raises UserError with one message that names every mistake.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"config {path} cannot be read as YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"config {path} must hold a mapping of settings, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(f"config {path} is not valid:\n" + "\n".join(_explain(error))) from None
    config = _absolute(config, path.resolve().parent)
    config.named_inputs()
    return config


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override!r}: expected key=value, for example select.per_class=400")
    *parents, last = key.split(".")
    node: Any = data
    for name in parents:
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
            continue
        if not isinstance(node, dict):
            raise UserError(f"--set {override!r}: {key!r} leads through a value that is no section")
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
    if not isinstance(node, dict):
        raise UserError(f"--set {override!r}: {key!r} leads into a value that is no section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: the value is not YAML: {error}") from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _keys_at(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            lines.append(f"  {place}: unknown key{hint}")
        elif item["type"] == "missing":
            lines.append(f"  {place}: missing")
        else:
            said = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"  # a section says itself what
            lines.append("  " + (f"{place}: " if place else "") + said + got)
    return lines


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    schema = RunConfig.model_json_schema()
    node: dict[str, Any] = schema
    for step in location:
        node = _resolve(schema, node)
        node = node["items"] if "items" in node else node.get("properties", {}).get(str(step), {})
    return sorted(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", []):
        if option.get("type") != "null":
            node = option
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    """Paths in the file are relative to the file, so that a run does not depend on where it was started."""

    def place(uri: str | None) -> str | None:
        return uri if uri is None or "://" in uri else os.path.normpath(folder / Path(uri).expanduser())

    def move(item: InputConfig) -> InputConfig:
        return item.model_copy(update={"uri": place(item.uri)})

    moved = {role: tuple(move(i) for i in getattr(config.inputs, role)) for role in ("labeled", "protected", "pool")}
    inputs = config.inputs.model_copy(update=moved)

    def move_teacher(network: Network) -> Network:
        return network.model_copy(update={"weights": place(network.weights), "class_map": place(network.class_map)})

    others = tuple(move_teacher(network) for network in config.teacher.more)
    teacher = move_teacher(config.teacher).model_copy(update={"more": others})
    if teacher.fit and teacher.fit.data:
        teacher = teacher.model_copy(update={"fit": teacher.fit.model_copy(update={"data": move(teacher.fit.data)})})
    student = config.student.model_copy(update={"weights": place(config.student.weights)})
    sections = {name: getattr(config, name) for name in RunConfig.model_fields}
    listed = {
        name: section.model_copy(update={k: tuple(map(place, uris)) for k, uris in side_files.items()})
        for name, section in sections.items()
        if isinstance(section, Settings) and (side_files := side_files_of(section))
    }
    update = {
        "workspace": place(config.workspace),
        "inputs": inputs,
        "classes": place(config.classes),
        "teacher": teacher,
        "student": student,
        **listed,
    }
    return config.model_copy(update=update)
