import hashlib
import math

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from scone_cli.artifacts.schemas import HELD_OUT, TOKENS, TRAIN
from scone_cli.corpus.token_stream import read_tokens, split_of

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
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, schema=TOKENS), tmp_path / "part-00000-000.parquet")
    train, held_out = (read_tokens(tmp_path, split) for split in (TRAIN, HELD_OUT))
    assert (train.names, train.tokens.tolist(), train.starts.tolist()) == (["a", "b", "d"], [1, 2, 3], [0, 1, 1, 3])
    assert (held_out.names, held_out.tokens.tolist(), held_out.starts.tolist()) == (["c"], [], [0, 0])
