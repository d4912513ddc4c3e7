import re
from pathlib import Path

import faiss
import numpy as np
import pytest

from ssld_pipeline.copies.candidates import nearest
from ssld_pipeline.copies.candidates.nearest import build_index, index_factory, search, set_num_probes, to_gpu
from ssld_pipeline.copies.index.mapped_vectors import open_vectors, write_vectors


def descriptors(seed, count):
    """Uneven, as SIFT's are: most mass in few entries."""
    values = np.random.default_rng(seed).gamma(0.6, 40, (count, 128))
    return np.clip(values, 0, 255).astype(np.uint8)


def disturbed(base, rows, seed=2, sigma=3):
    noise = np.random.default_rng(seed).normal(0, sigma, (len(rows), 128))
    return np.clip(base[rows] + noise, 0, 255).astype(np.uint8)


def brute_force(queries, base, count):
    left, right = queries.astype(np.float64), base.astype(np.float64)  # whole numbers: exact
    exact = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    order = np.argsort(exact, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(exact, order, axis=1), order


@pytest.fixture(scope="module")
def base():
    return descriptors(0, 20_000)


@pytest.fixture(scope="module")
def mapped(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(build_index(base, 1), folder)
    return folder


def test_a_small_index_is_exact():
    base, queries = descriptors(0, 700), descriptors(1, 20)
    distances, ids = search(build_index(base, 1), queries, 5)
    exact, order = brute_force(queries, base, 5)
    np.testing.assert_array_equal(distances, exact)
    np.testing.assert_array_equal(ids, order)


def test_a_large_index_finds_a_disturbed_descriptor(base):
    assert index_factory(len(base)).startswith("IVF")
    index = build_index(base, 1)
    set_num_probes(index, 4)
    rows = np.arange(0, len(base), 170)
    _, ids = search(index, disturbed(base, rows), 4)
    assert (ids == rows[:, None]).any(axis=1).mean() > 0.9


def test_more_probes_find_more_of_the_nearest(base):
    index, queries = build_index(base, 1), descriptors(1, 60)
    order = brute_force(queries, base, 4)[1]

    def recall(num_probes):
        set_num_probes(index, num_probes)
        ids = search(index, queries, 4)[1]
        return np.mean([len(set(a) & set(b)) / 4 for a, b in zip(order.tolist(), ids.tolist(), strict=True)])

    few, all_lists = recall(4), recall(index.nlist)
    assert few < all_lists
    # These vectors have no structure a quantizer could use, and no near neighbours: real ones do far better.
    assert all_lists > 0.25


@pytest.mark.parametrize("most_flat_lists", [1024, 16])
def test_the_index_does_not_depend_on_the_number_of_threads(base, monkeypatch, most_flat_lists):
    monkeypatch.setattr(nearest, "_MAX_FLAT_LISTS", most_flat_lists)
    assert ("HNSW" in index_factory(len(base))) == (most_flat_lists == 16)
    one, two = (faiss.serialize_index(build_index(base, num_threads)) for num_threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("num_vectors", "expected"),
    [
        (0, "Flat"),
        (16_384, "Flat"),
        (16_385, "IVF64,PQ64x4fs"),
        (400_000, "IVF256,PQ64x4fs"),
        (20_000_000, "IVF16384_HNSW32,PQ64x4fs"),
        (480_000_000, "IVF65536_HNSW32,PQ64x4fs"),
    ],
)
def test_the_kind_of_index_follows_the_number_of_vectors(num_vectors, expected):
    assert index_factory(num_vectors) == expected


def test_every_list_gets_a_centroid_where_most_vectors_are_the_same():
    same = np.repeat(descriptors(5, 1), 15_000, axis=0)
    base = np.concatenate((same, descriptors(6, 3000)))
    index = build_index(base, 1)
    assert index.quantizer.ntotal == index.nlist
    set_num_probes(index, 4)
    rows = np.arange(15_000, 18_000, 50)
    assert (search(index, base[rows], 4)[1] == rows[:, None]).any(axis=1).mean() > 0.9


def test_an_empty_index_answers_with_nothing():
    index = build_index(np.zeros((0, 128), np.uint8), 1)
    _, ids = search(index, descriptors(0, 3), 2)
    np.testing.assert_array_equal(ids, np.full((3, 2), -1))


@pytest.mark.parametrize("count", [0, 700, 20_000])
def test_a_mapped_index_answers_as_the_one_in_memory(tmp_path, base, count):
    index, queries = build_index(base[:count], 1), descriptors(1, 50)
    set_num_probes(index, 4)
    expected = search(index, queries, 4)
    write_vectors(index, tmp_path)
    opened = open_vectors(tmp_path)
    set_num_probes(opened, 4)
    for got, want in zip(search(opened, queries, 4), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert opened.ntotal == count


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc: cannot see what is mapped")
def test_processes_share_what_they_search(mapped):
    index = open_vectors(mapped)
    search(index, descriptors(1, 5), 4)
    maps = re.findall(r"(?m)^\S+ (\S+) .* (/\S+)$", Path("/proc/self/maps").read_text())
    access = {Path(path).name: mode for mode, path in maps if Path(path).parent == mapped.resolve()}
    assert access == {"lists.bin": "r--s", "descriptors.faiss": "r--s"}
    # What is not mapped is a table of lists.
    assert (mapped / "lists.npy").stat().st_size < 0.01 * (mapped / "lists.bin").stat().st_size


def test_whole_descriptors_find_what_codes_find_and_more(base):
    """The index a GPU is given, searched by the processor."""
    index, queries = build_index(base, 1), disturbed(base, np.arange(0, len(base), 400), sigma=12)
    set_num_probes(index, 8)
    whole = nearest.with_whole_descriptors(index)
    nearest.fill(whole, base, 1)
    distances, ids = search(whole, queries, 4)
    exact = ((queries[:, None].astype(np.int64) - base[ids].astype(np.int64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances, exact)
    order = brute_force(queries, base, 1)[1]
    assert (ids[:, 0] == order[:, 0]).mean() >= (search(index, queries, 4)[1][:, 0] == order[:, 0]).mean()


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="no GPU that FAISS can use")
@pytest.mark.parametrize("count", [700, 20_000])
def test_a_gpu_finds_the_neighbours_that_the_processor_finds(base, count):
    index, queries = build_index(base[:count], 1), disturbed(base[:count], np.arange(0, count, 7))
    set_num_probes(index, 8)
    here, there = search(index, queries, 1)[1][:, 0], search(to_gpu(index, base[:count]), queries, 1)[1][:, 0]
    assert (here == there).mean() > 0.9
    truth = np.arange(0, count, 7)
    assert (there == truth).mean() >= (here == truth).mean()
