import numpy as np
import pytest

from ssld_pipeline.copies.index.mapped_columns import MappedDigests, MappedIds, write_digests, write_ids


def test_ids_are_read_back_row_by_row(tmp_path):
    names = ["protected/a.jpg", "protected/ü", "protected/a.jpg"]
    write_ids(tmp_path / "ids", names)
    ids = MappedIds(tmp_path / "ids")
    assert [ids[np.int64(i)] for i in range(len(ids))] == names
    with pytest.raises(IndexError):
        ids[3]


def test_a_digest_gives_its_image(tmp_path):
    rng = np.random.default_rng(0)
    owners = {rng.bytes(16): f"protected/{i}" for i in range(500)}
    # Bytes that NumPy's strings do not keep, and neighbours of these in the order.
    owners |= {b"\0" * 16: "nothing", b"\0" * 15 + b"\1": "last", b"a" + b"\0" * 15: "first", b"a" * 16: "full"}
    write_digests(tmp_path / "digests", owners)
    digests = MappedDigests(tmp_path / "digests")
    assert {digest: digests.get(digest) for digest in owners} == owners
    assert [digests.get(d) for d in (b"a" * 15 + b"\0", b"b" * 16, b"\xff" * 16, rng.bytes(16))] == [None] * 4


def test_files_of_nothing_answer_with_nothing(tmp_path):
    write_ids(tmp_path / "ids", [])
    write_digests(tmp_path / "digests", {})
    assert len(MappedIds(tmp_path / "ids")) == 0
    assert MappedDigests(tmp_path / "digests").get(b"a" * 16) is None
