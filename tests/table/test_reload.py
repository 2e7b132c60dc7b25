"""A table of a registry in service: it moves to a new version between requests, and never mixes two."""

from __future__ import annotations

import gc
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from messages import refusal
from registries import TOKENS, parts_of, publish_small, version_of

from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.publish_version import publish_version
from scone_cli.artifacts.registry import current_name, versions
from scone_cli.errors import DamagedArtifact, InputMissing, MismatchedArtifacts
from scone_cli.progress import silent
from scone_cli.table import Table

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def name(tmp_path) -> Path:
    return tmp_path / "registry" / "law"


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# ---- opening -----------------------------------------------------------------------------------------------------


def test_the_current_version_is_opened(name, work):
    first = publish_small(name, work, 1).version
    publish_small(name, work, 2)
    with Table.open(name) as table:
        assert version_of(table) == 2
        assert table.folder == name / "versions" / current_name(name) / "table"
        assert table.version == current_name(name)
        assert str(table.folder) in repr(table)
    for path in (first.folder, first.folder / "table", str(first.folder)):
        table = Table.open(path)
        assert (version_of(table), table.version) == (1, first.name)
        assert table.reload_if_changed() is table
    table = Table.open(work / "table")
    assert (table.version, table.reload_if_changed()) == (None, table)


def test_a_version_is_not_pruned_while_a_table_is_open(name, work):
    first = publish_small(name, work, 1).version
    table = Table.open(first.folder / "table")
    assert publish_small(name, work, 2, keep=1).in_use == [first.name]
    table.close()
    assert publish_small(name, work, 2, keep=1).pruned == [first.name]


def test_a_version_that_vanishes_while_it_is_opened_is_looked_up_again(name, work, monkeypatch):
    """As a mirror may do it, which knows no locks."""
    first, real = publish_small(name, work, 1).version, Table._opened
    publish_small(name, work, 2)
    roll_back(name)

    def vanish(*args: object) -> Table:
        monkeypatch.setattr(Table, "_opened", real)
        roll_back(name, versions(name)[1].name)
        shutil.rmtree(first.folder)
        return real(*args)

    monkeypatch.setattr(Table, "_opened", vanish)
    assert version_of(Table.open(name)) == 2


def test_what_cannot_be_opened_is_told(name, work):
    version = publish_small(name, work, 1).version
    (version.folder / "table" / "index.bin").unlink()
    with refusal(DamagedArtifact, "index.bin"):
        Table.open(name)
    shutil.rmtree(name)
    with refusal(InputMissing, str(name)):
        Table.open(name)


# ---- moving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["mmap", "ram"])
def test_it_moves_when_current_has_moved(name, work, placement, monkeypatch):
    publish_small(name, work, 1)
    monkeypatch.chdir(name.parent)
    first = Table.open("law", placement)
    monkeypatch.chdir(work)
    assert first.reload_if_changed() is first
    publish_small(name, work, 2)
    matcher = first.matcher()
    second = first.reload_if_changed()
    assert second.reload_if_changed() is second
    assert (version_of(first), version_of(second), second.placement) == (1, 2, placement)
    assert first.rows(matcher.match(TOKENS))[1:, 0].unique().tolist() == [1]
    roll_back(name)
    third = second.reload_if_changed()
    assert (version_of(third), third is second) == (1, False)


def test_the_old_table_closes_with_its_last_reference(name, work):
    publish_small(name, work, 1)
    table = Table.open(name)
    version_of(table)
    gc.collect()
    before = len(list(DESCRIPTORS.iterdir()))
    gc.disable()  # no cycle may keep it
    try:
        for number in range(2, 8):
            publish_small(name, work, number, keep=1)
            table = table.reload_if_changed()
            assert version_of(table) == number
        assert len(list(DESCRIPTORS.iterdir())) == before
    finally:
        gc.enable()
    assert publish_small(name, work, 7, keep=1).in_use == []
    assert len(versions(name)) == 1


def test_threads_get_one_table(name, work, monkeypatch):
    publish_small(name, work, 1)
    table, opened = Table.open(name), []
    publish_small(name, work, 2)
    real = Table._opened

    def slowly(*args: object) -> Table:
        opened.append(args)
        time.sleep(0.05)
        return real(*args)

    monkeypatch.setattr(Table, "_opened", slowly)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: table.reload_if_changed(), range(8)))
    assert len(opened) == 1
    assert len(set(map(id, found))) == 1
    found[0].close()
    assert version_of(table.reload_if_changed()) == 2, "a new one, as somebody closed it"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads, which the child does not need
def test_a_forked_child_moves_although_a_thread_of_its_parent_is_opening(name, work):
    publish_small(name, work, 1)
    table = Table.open(name)
    version_of(table)
    publish_small(name, work, 2)
    assert table._reopening._lock.acquire()
    if not (child := os.fork()):
        os._exit(0 if version_of(table.reload_if_changed()) == 2 else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == (child, 0)


def test_what_does_not_fit_is_refused_and_the_old_table_stays(name, work):
    publish_small(name, work, 1)
    table = Table.open(name, model=None)
    with refusal(MismatchedArtifacts, "tokenizer"):
        Table.open(name, tokenizer=_tokenizer(work))
    parts = parts_of(work, 2)
    current = publish_version(name, parts, {}, silent).version.folder
    (current / "table" / "index.bin").unlink()
    with refusal(DamagedArtifact, "index.bin"):
        table.reload_if_changed()
    assert version_of(table) == 1
    roll_back(name)
    assert table.reload_if_changed() is table


def _tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text('{"model": {}}')
    return folder / "tokenizer.json"


def test_a_registry_that_is_gone_is_told(name, work):
    publish_small(name, work, 1)
    table = Table.open(name)
    (name / "current").unlink()
    with refusal(InputMissing, "current"):
        table.reload_if_changed()
    (name / "current").mkdir()
    with pytest.raises(Exception, match="link"):
        table.reload_if_changed()
    assert version_of(table) == 1
