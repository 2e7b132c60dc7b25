"""What a table will take is what its files take, and a budget holds."""

import pytest
from builders import random_documents, slow_ranking, trie_of
from hypothesis import given
from hypothesis import strategies as st

from scone_cli.stages.precompute import Precompute
from scone_cli.stages.select_vocab import SelectVocab
from scone_cli.table.layout import write_index
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import FORMATS, row_bytes
from scone_cli.table.sizes import PART_BYTES, fgrams_within, table_bytes
from scone_cli.training.settings import TrainFgram

FGRAMS = slow_ranking(random_documents(3, 9, [400, 300]), 4, 300, 1)


def bytes_on_disk(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("size", "dim"), [(1, 1), (7, 3), (300, 16), (300, 1024)])
def test_the_files_take_no_more_and_hardly_less(tmp_path, size, dim, dtype):
    RowFiles(tmp_path, size, row_bytes(dtype, dim)).create()
    write_index(tmp_path, trie_of(FGRAMS[:size], 9, 4).index(), 16, "float16")
    assert table_bytes(size, dim, dtype, 9) - 1024 <= bytes_on_disk(tmp_path) <= table_bytes(size, dim, dtype, 9)


def test_every_file_of_rows_is_counted(monkeypatch, tmp_path):
    monkeypatch.setattr("scone_cli.table.sizes.PART_BYTES", 1000)
    RowFiles(tmp_path, 300, 32, 1000).create()
    num_files = len(list(tmp_path.iterdir()))
    assert num_files == 10
    write_index(tmp_path, trie_of(FGRAMS, 9, 4).index(), 16, "float16")
    found = table_bytes(300, 16, "float16", 9) - bytes_on_disk(tmp_path)
    assert 0 <= found <= 1024 * num_files


@pytest.mark.slow
@given(st.integers(0, 10**13), st.integers(1, 10_000), st.sampled_from(sorted(FORMATS)), st.integers(1, 10**6))
def test_a_budget_holds_and_is_used(budget, dim, dtype, num_tokens):
    size = fgrams_within(budget, dim, dtype, num_tokens)
    assert size == 0 or table_bytes(size, dim, dtype, num_tokens) <= budget
    assert size == 2**32 - 1 or table_bytes(size + 1, dim, dtype, num_tokens) > budget


def test_defaults_and_formats_are_those_of_the_stages_that_make_the_table():
    assert SelectVocab().dim == TrainFgram().dim
    assert SelectVocab().dtype == Precompute().dtype
    choices = [stage.__dataclass_fields__["dtype"].metadata["choices"] for stage in (SelectVocab, Precompute)]
    assert choices[0] == choices[1] == tuple(FORMATS)
    assert RowFiles.__dataclass_fields__["part_bytes"].default == PART_BYTES
