"""The one pydantic base of all settings: frozen, nothing unknown accepted; and what a setting that names files is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class _NamesSideFiles:
    """Marks fields in pydantic's metadata."""


def one_or_a_list(value: Any) -> Any:
    """A list of one, where the config has a single path or section in place of a list."""
    return [value] if isinstance(value, str | dict) else value


_Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Std = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Means = tuple[_Mean, _Mean, _Mean]
"""Per channel, for pixels in [0,1]: values of 0..255, as other libraries write them, are refused."""
Stds = tuple[_Std, _Std, _Std]

SideFiles = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_a_list, json_schema_input_type=str | tuple[str, ...]),
    _NamesSideFiles(),
]
"""One path or a list of them; relative ones start at the config file's folder. See ``stages/stage.py``."""


def side_files_of(section: Settings) -> dict[str, tuple[str, ...]]:
    """Field -> paths, of the fields of this section that name side files."""
    fields = type(section).model_fields.items()
    return {k: getattr(section, k) for k, f in fields if any(isinstance(m, _NamesSideFiles) for m in f.metadata)}
