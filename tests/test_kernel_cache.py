"""Kernels are forgotten together, as soon as one of their sources is newer, and never otherwise."""

import os

import pytest

from scone_cli.kernel_cache import forget_stale_kernels

KEPT = ("ngrams.find-12.py311.nbi", "ngrams.find-12.py311.1.nbc", "streams._match-3.py311.nbi")


@pytest.fixture
def package(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    for number, name in enumerate(("ngrams.py", "streams.py", "raw_memory.py", "cli.py")):
        write(tmp_path / name, 100 + number)
    for number, name in enumerate((*KEPT, "cli.cpython-311.pyc")):
        write(tmp_path / "__pycache__" / name, 200 + number)
    return tmp_path


def write(path, seconds):
    path.write_text("x")
    os.utime(path, (seconds, seconds))


def kept(folder):
    return {path.name for path in (folder / "__pycache__").iterdir()} - {"cli.cpython-311.pyc"}


def test_what_is_newer_than_its_sources_stays(package):
    assert forget_stale_kernels(package) == 0
    assert kept(package) == set(KEPT)


@pytest.mark.parametrize("edited", ["ngrams.py", "raw_memory.py"])
def test_one_edited_source_is_enough(package, edited):
    """The kernel of `streams` has inlined what stands in the others."""
    write(package / edited, 300)
    assert forget_stale_kernels(package) == len(KEPT)
    assert kept(package) == set()


def test_a_source_without_kernels_does_not_matter(package):
    write(package / "cli.py", 300)
    assert forget_stale_kernels(package) == 0


def test_where_nothing_is_kept_there_is_nothing_to_do(tmp_path):
    assert forget_stale_kernels(tmp_path) == 0
