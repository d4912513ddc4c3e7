"""List inputs as spreadsheets, PaddleClas and PowerShell write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_inputs import catalogue, classes_of, write

from ssld_pipeline.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 0\nb.jpg 1\n",
        "a.jpg 0\r\nb.jpg 1\r\n",
        "a.jpg,0\nb.jpg, dog\n",
        "a.jpg\tcat\nb.jpg\tdog\n",
        "path label\na.jpg 0\nb.jpg 1\n",
        "image,class_id\na.jpg,0\nb.jpg,1\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_other_tools_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    write(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list").write_bytes(text.encode(encoding))
    rows, rejects = catalogue(tmp_path / "list", "list", "protected")
    assert (classes_of(rows), rejects) == ({"protected/a.jpg": 0, "protected/b.jpg": 1}, {})


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "list").write_bytes("a.jpg 0\n".encode("utf-16-le"))  # no byte order mark
    with pytest.raises(UserError, match=r"inputs.protected: .*/list is no list of images: .* save it as UTF-8"):
        catalogue(tmp_path / "list", "list", "protected")


def test_a_first_line_that_names_an_image_is_no_header(tmp_path: Path) -> None:
    write(tmp_path, "label.jpg", "image")
    (tmp_path / "list").write_text("image dog\nlabel.jpg cat\n", encoding="utf-8")
    rows, _ = catalogue(tmp_path / "list", "list", "protected")
    assert classes_of(rows) == {"protected/image": 1, "protected/label.jpg": 0}
