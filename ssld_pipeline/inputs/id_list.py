"""Lists of image_ids that a person wrote: text files, one image_id a line."""

from __future__ import annotations

from collections.abc import Iterable

from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.location import filesystem


def read_ids(uris: Iterable[str], setting: str) -> list[str]:
    """The image_ids of all files, sorted, each once; empty lines and lines that begin with # say nothing.

    ``setting``: dotted name of the setting that names the files. UserError for a file that is missing or no UTF-8 text.
    """
    return sorted({line for uri in uris for line in _lines(uri, setting) if line and not line.startswith("#")})


def _lines(uri: str, setting: str) -> list[str]:
    try:
        files, path = filesystem(uri)
        text: str = files.cat_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}: {uri} cannot be read as a text file of image_ids: {error}") from None
    return [line.strip() for line in text.split("\n")]
