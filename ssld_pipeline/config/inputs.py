"""The inputs: where the images of each role are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from ssld_pipeline.config.settings import Settings, one_or_a_list

TRAINED_ON_ROLES = ("labeled", "teacher")
"""Roles whose own labels networks are trained on."""

Labels = Literal["auto", "numbers", "numbers_from_1", "none"]
Format = Literal["folder", "tar", "parquet", "list"]


class InputConfig(Settings):
    uri: str
    """Folder, file or glob that holds the images; local, or any fsspec location such as s3://."""
    format: Format
    """folder: class folders or flat. tar: plain or webdataset (0001.jpg is the image, 0001.seg.png a companion).
    parquet: bytes column or Hugging Face image struct. list: a text file of `path label` lines, paths relative to the
    file."""
    name: str | None = None
    """First part of every image_id of this input; default: the role. Needed where a role has several inputs."""

    labels: Labels = "auto"
    """How labels name classes. auto: by name, or by number from 0; folder names are numbers only if the folders are
    exactly 0 to N-1. numbers, numbers_from_1: by number, counted from 0 or 1, folder names included. none: labels are
    not read, for a protected input that is not evaluated. Not used for the pool."""

    @field_validator("name")
    @classmethod
    def _name_is_one_path_segment(cls, name: str | None) -> str | None:
        if name is not None and (name in ("", ".", "..") or "/" in name or name != name.strip()):
            raise ValueError(f"an input name must be one path segment, got {name!r}")
        return name


Inputs = Annotated[
    tuple[InputConfig, ...],
    BeforeValidator(one_or_a_list, json_schema_input_type=InputConfig | tuple[InputConfig, ...]),
]


class InputsConfig(Settings):
    labeled: Inputs = ()
    """Images with true labels (ImageNet-1k train)."""
    protected: Inputs = ()
    """Images no copy of which may be trained on (ImageNet-1k val); labels are used for evaluation only."""
    pool: Inputs = ()
    """Images to mine (ImageNet-22k); labels are never used."""
