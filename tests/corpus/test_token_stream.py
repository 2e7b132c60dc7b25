import hashlib
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from scone_cli.artifacts.schemas import HELD_OUT, TOKENS, TRAIN
from scone_cli.corpus.token_stream import Encoded, by_document, num_documents, read_tokens, split_of, write_part

# ---- the split ---------------------------------------------------------------------------------------------------


def test_split_worked_by_hand():
    digest = hashlib.blake2b("Grüße".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    assert split_of("Grüße", math.nextafter(share, 1)) == HELD_OUT
    assert split_of("Grüße", math.nextafter(share, 0)) == TRAIN
    assert (TRAIN, HELD_OUT) == ("train", "held-out")


def test_split_holds_out_about_its_share():
    sides = [split_of(str(number), 0.25) for number in range(4000)]
    assert 900 < sides.count(HELD_OUT) < 1100


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_documents_and_more(text, one, other):
    if split_of(text, min(one, other)) == HELD_OUT:
        assert split_of(text, max(one, other)) == HELD_OUT
    assert (split_of(text, 0), split_of(text, 1)) == (TRAIN, HELD_OUT)


# ---- streams -----------------------------------------------------------------------------------------------------


def test_documents_without_tokens_keep_their_place(tmp_path):
    rows = [("a", TRAIN, 1, [1]), ("b", TRAIN, 1, []), ("c", HELD_OUT, 1, []), ("d", TRAIN, 1, [2, 3])]
    rows = [(name, split, size, False, tokens) for name, split, size, tokens in rows]
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, schema=TOKENS), tmp_path / "part-00000-000.parquet")
    train, held_out = (read_tokens(tmp_path, split) for split in (TRAIN, HELD_OUT))
    assert (train.names, train.tokens.tolist(), train.starts.tolist()) == (["a", "b", "d"], [1, 2, 3], [0, 1, 1, 3])
    assert (held_out.names, held_out.tokens.tolist(), held_out.starts.tolist()) == (["c"], [], [0, 0])


def test_segments_of_a_document_are_rows_that_continue_it_in_one_part_or_many(tmp_path):
    def segment(name, split, tokens, continues=False):
        return Encoded(name, split, 3 * len(tokens), np.array(tokens, np.uint32), continues)

    first = [segment("a", TRAIN, [1, 2]), segment("a", TRAIN, [], True), segment("a", TRAIN, [3], True)]
    first += [segment("b", HELD_OUT, [4]), segment("b", HELD_OUT, [5], True), segment("c", TRAIN, [6])]
    second = [segment("d", TRAIN, [7, 8]), segment("d", TRAIN, [9], True)]
    assert [len(document) for document in by_document(first + second)] == [3, 2, 1, 2]
    assert num_documents(first) == 3
    for number, segments in enumerate((first, second)):
        write_part(tmp_path / f"part-{number:05d}-0000.parquet", segments)
    train, held_out = (read_tokens(tmp_path, split) for split in (TRAIN, HELD_OUT))
    assert train.names == ["a", "a", "a", "c", "d", "d"]
    assert train.document_of.tolist() == [0, 0, 0, 1, 2, 2]
    assert (held_out.starts.tolist(), held_out.document_of.tolist()) == ([0, 1, 2], [0, 0])


def test_parts_of_version_1_have_documents_of_one_row(tmp_path):
    columns = {"doc": ["a", "b"], "split": [TRAIN, TRAIN], "bytes": [1, 1], "tokens": [[1], [2, 3]]}
    fields = [field for field in TOKENS if field.name != "continues"]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "part-00000-0000.parquet")
    assert read_tokens(tmp_path, TRAIN).document_of.tolist() == [0, 1]
