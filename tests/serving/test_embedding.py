"""The embedding of a served model: whatever the pieces, the streams and the drafts, as the whole document at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_matches, slow_ranking, tiny_model, trie_of
from messages import refusal

from scone_cli.errors import MismatchedArtifacts
from scone_cli.model.live_rows import live_rows
from scone_cli.model.model import KeyValueCache
from scone_cli.serving.embedding import LiveEmbedding, SconeEmbedding, embedding_of
from scone_cli.table.table import Table

NUM_TOKENS, MAX_N, END = 8, 4, 7
FGRAMS = slow_ranking(random_documents(0, 7, [300]), MAX_N, 60, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
MODEL = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=40, context=32)
ROWS = MODEL.rows(TRIE, np.arange(60)).detach()
DOCUMENTS = random_documents(1, 7, [40, 1, 17, 0, 40])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return Table.open(make_table(tmp_path_factory.mktemp("float32"), TRIE, ROWS))


@torch.no_grad()
def whole(document):
    """The slow twin: the document at once, each f-gram's row or the token's embedding put in its place [C, D]."""
    rows = [
        ROWS[FGRAMS.index(match)] if match else MODEL.main.embed_tokens(torch.tensor(token))
        for token, match in zip(document, slow_matches(document, FGRAMS, MAX_N), strict=True)
    ]
    return torch.stack(rows) if rows else torch.empty(0, 16)


def test_one_document_at_once_is_what_every_arm_of_an_evaluation_sees(table):
    document = torch.tensor(DOCUMENTS[0])[None]
    embedded = SconeEmbedding(MODEL.main, table)(document)
    ids, _ = TRIE.index().match(np.array(DOCUMENTS[0], np.uint32))
    with torch.no_grad():
        slots, rows = live_rows(MODEL, document.numpy(), ids[None], TRIE)
        torch.testing.assert_close(embedded, MODEL.main.embed(document, slots, rows))
    assert torch.equal(embedded[0], whole(DOCUMENTS[0]))
    assert 0 < np.count_nonzero([match == () for match in slow_matches(DOCUMENTS[0], FGRAMS, MAX_N)]) < 40


@pytest.mark.parametrize("sizes", [[1] * 40, [39, 1], [5, 1, 1, 20, 13], [0, 40, 0]], ids=str)
def test_pieces_are_embedded_as_the_whole(table, sizes):
    embedding = SconeEmbedding(MODEL.main, table)
    pieces = [embedding(piece[None])[0] for piece in torch.tensor(DOCUMENTS[0]).split(sizes)]
    assert [len(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat(pieces), whole(DOCUMENTS[0]))


def test_a_batch_is_one_piece_for_each_stream(table):
    documents = torch.tensor([DOCUMENTS[0], DOCUMENTS[4]])
    embedding = SconeEmbedding(MODEL.main, table, streams=3)
    found = torch.cat([embedding(piece) for piece in documents.split([25, 1, 14], dim=1)], 1)
    assert torch.equal(found, torch.stack([whole(DOCUMENTS[0]), whole(DOCUMENTS[4])]))


@pytest.mark.parametrize("seed", range(5))
def test_ragged_streams_that_come_in_any_order_do_not_touch_one_another(table, seed):
    """At each call some streams, drawn by chance, get pieces of lengths drawn by chance, among them none at all."""
    random = np.random.default_rng(seed)
    embedding = SconeEmbedding(MODEL.main, table, streams=len(DOCUMENTS))
    left, found = [list(document) for document in DOCUMENTS], [list[torch.Tensor]() for _ in DOCUMENTS]
    while any(left):
        streams = random.permutation(len(DOCUMENTS))[: random.integers(1, len(DOCUMENTS) + 1)].tolist()
        pieces = [left[stream][: random.integers(0, 6)] for stream in streams]
        flat = torch.tensor([token for piece in pieces for token in piece], dtype=torch.int64)
        x = embedding(flat, [len(piece) for piece in pieces], streams)
        for stream, part in zip(streams, x.split([len(piece) for piece in pieces]), strict=True):
            found[stream].append(part)
            del left[stream][: len(part)]
    for document, parts in zip(DOCUMENTS, found, strict=True):
        assert torch.equal(torch.cat(parts), whole(document))


def test_drafted_tokens_are_taken_back(table):
    """Three are drafted after every token, of which none, some or all are accepted; and the model's cache goes with them."""
    embedding = SconeEmbedding(MODEL.main, table, streams=2)
    cache = KeyValueCache(MODEL.config, 1, 32)
    document, draft, at, found, hidden = DOCUMENTS[0][:28], [1, 4, 6], 0, [], []
    while at < len(document):
        accepted = at % 3
        proposed = torch.tensor([*document[at : at + 1 + accepted], *draft[accepted:]])
        embedded = embedding(proposed, [len(proposed)], [1])
        kept = min(1 + accepted, len(document) - at)
        with torch.no_grad():
            hidden.append(MODEL.main(embedded[None], cache)[0, :kept])
        embedding.matcher.roll_back(len(proposed) - kept, 1)
        cache.length -= len(proposed) - kept
        found.append(embedded[:kept])
        at += kept
    assert torch.equal(torch.cat(found), whole(document))
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(hidden), MODEL.main(whole(document)[None])[0], rtol=1e-4, atol=1e-4)


def test_a_new_document_sees_nothing_of_the_one_before(table):
    embedding = SconeEmbedding(MODEL.main, table)
    embedding(torch.tensor(DOCUMENTS[0])[None])
    embedding.matcher.reset()
    assert torch.equal(embedding(torch.tensor(DOCUMENTS[2])[None])[0], whole(DOCUMENTS[2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_half_precision_enter_in_that_of_the_model(tmp_path, dtype):
    table = Table.open(make_table(tmp_path, TRIE, ROWS.to(dtype)))
    found = SconeEmbedding(MODEL.main, table)(torch.tensor(DOCUMENTS[0])[None])[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole(DOCUMENTS[0]), rtol=1e-2, atol=1e-2)
    ids, _ = TRIE.index().match(np.array(DOCUMENTS[0], np.uint32))
    first = int(np.flatnonzero(ids < 60)[0])
    assert torch.equal(found[first], ROWS[int(ids[first])].to(dtype).float())


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda given: np.array(given, np.uint8),
        lambda given: torch.tensor(given).short(),
    ],
)
def test_tokens_of_any_kind_in_one_dimension_or_two(table, kind):
    """In one dimension they are the next tokens of one stream: the first, or the one that is named."""
    embedding, document = SconeEmbedding(MODEL.main, table, streams=2), DOCUMENTS[0]
    assert torch.equal(embedding(kind(document)), whole(document))
    assert torch.equal(embedding(kind(document[:20]), streams=kind([1])), whole(document)[:20])
    assert torch.equal(embedding(kind([document[20:]]), streams=kind([1]))[0], whole(document)[20:])
    embedding.matcher.reset(0)
    embedding.matcher.reset(1)
    found = embedding(kind(document[:9]), lengths=kind([4, 5]), streams=kind([1, 0]))
    assert torch.equal(found, torch.cat([whole(document[:4]), whole(document[4:9])]))
    assert embedding(kind(document[9:10])).shape == (1, 16)


@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 0), (0, 3)], ids=str)
def test_no_tokens_are_embedded_as_none(table, shape):
    embedding = SconeEmbedding(MODEL.main, table, streams=2)
    assert embedding(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 16)
    assert embedding([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (([1.0, 2.0],), ["float64"]),
        ((torch.ones(3),), ["float32"]),
        ((torch.ones(3, dtype=torch.bfloat16),), ["BFloat16"]),
        ((torch.ones(3, dtype=torch.bool),), ["bool"]),
        ((torch.tensor(3),), ["shape ()", "one dimension or two"]),
        ((torch.zeros(1, 1, 1).long(),), ["(1, 1, 1)", "one dimension or two"]),
        ((3,), ["int"]),
        ((None,), ["NoneType"]),
        (("text",), ["str"]),
        (([[1], [2, 3]],), ["in memory"]),
        ((torch.zeros(3, device="meta").long(),), ["meta"]),
        (([8],), ["8", "8 tokens"]),
        (([[1, 2], [-1, 3]],), ["-1", "8 tokens"]),
        (([1, 2, 3], [1, 1]), ["pieces"]),
        (([1, 2, 3], [4, -1]), ["pieces"]),
        (([1, 2, 3], [1.0, 2.0]), ["lengths", "float64"]),
        (([[1, 2]], [2]), ["[1, 2]", "lengths"]),
        (([1, 2, 3], None, [0, 1]), ["pieces"]),
        (([1, 2], [1, 1], [0, 0]), ["pieces", "streams"]),
        (([1, 2], [1, 1], [0, 5]), ["pieces", "streams"]),
        (([1, 2], [1, 1], ["0", "1"]), ["streams"]),
        (([[1], [2], [3]],), ["pieces", "streams"]),
    ],
    ids=str,
)
def test_what_cannot_be_embedded_is_refused_and_changes_no_stream(table, arguments, facts):
    embedding, document = SconeEmbedding(MODEL.main, table, streams=2), DOCUMENTS[0]
    embedding(document[:20])
    with refusal(ValueError, *facts):
        embedding(*arguments)
    assert torch.equal(embedding(document[20:]), whole(document)[20:])


def test_a_table_of_another_model_is_refused(table):
    for other in (
        tiny_model(NUM_TOKENS + 1, MAX_N, combine="add"),
        tiny_model(NUM_TOKENS, MAX_N, combine="add", dim=32),
    ):
        vocab_size, dim = other.main.token_embedding.weight.shape
        with refusal(MismatchedArtifacts, "8 tokens", "rows of 16", f"{vocab_size} tokens", f"width {dim}"):
            SconeEmbedding(other.main, table)
    with refusal(ValueError, "streams", "0"):
        SconeEmbedding(MODEL.main, table, streams=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_rows_are_staged_beside_the_work_before_them(table):
    """Many pieces while the GPU has work to do: staging memory must not be written before its copy has ended."""
    main = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=40, context=32).main.cuda()
    embedding, busy, found = SconeEmbedding(main, table), torch.randn(2000, 2000, device="cuda"), []
    for piece in torch.tensor(DOCUMENTS[0]).split([25, 1, 1, 13]):
        busy = (busy @ busy).clamp(-1, 1)
        found.append(embedding(piece[None])[0])
    torch.testing.assert_close(torch.cat(found).cpu(), whole(DOCUMENTS[0]))


@pytest.mark.parametrize("sizes", [[28], [1] * 28, [11, 1, 16]], ids=str)
def test_a_live_embedding_goes_on_where_it_stopped(sizes):
    live = LiveEmbedding(MODEL, TRIE)
    pieces = [live(piece[None])[0] for piece in torch.tensor(DOCUMENTS[0][:28]).split(sizes)]
    torch.testing.assert_close(torch.cat(pieces), whole(DOCUMENTS[0][:28]))


@pytest.mark.parametrize("kind", ["scone", "hashed", "plain"])
def test_live_streams_do_not_touch_one_another(kind):
    more = {"hashed_rows": 60, "end_of_document": END} if kind == "hashed" else {}
    model, trie = (MODEL, TRIE) if kind == "scone" else (tiny_model(NUM_TOKENS, MAX_N, kind=kind, **more), None)
    documents = torch.tensor([DOCUMENTS[0], DOCUMENTS[4]])
    together = embedding_of(model, None, trie, streams=2)
    found = torch.cat([together(piece) for piece in documents.split([25, 1, 14], dim=1)], 1)
    alone = [LiveEmbedding(model, trie)(document[None]) for document in documents]
    torch.testing.assert_close(found, torch.cat(alone))


def test_what_embeds_is_what_the_model_has(table):
    assert isinstance(embedding_of(MODEL, table, TRIE, streams=3), SconeEmbedding)
    assert isinstance(embedding_of(MODEL, None, TRIE), LiveEmbedding)
    assert embedding_of(MODEL, None, None) == MODEL.main.embed_tokens


def test_an_index_is_built_once(monkeypatch):
    """That of a large vocabulary takes longer than a text."""
    index = TRIE.index()
    monkeypatch.setattr(type(TRIE), "index", lambda _: pytest.fail("built again"))
    found = embedding_of(MODEL, None, TRIE, index)(torch.tensor(DOCUMENTS[0])[None])
    torch.testing.assert_close(found[0], whole(DOCUMENTS[0]))


@pytest.mark.parametrize("kind", ["hashed", "plain"])
def test_a_model_without_a_table_goes_on_too(kind):
    more = {"hashed_rows": 60, "end_of_document": END} if kind == "hashed" else {}
    model = tiny_model(NUM_TOKENS, MAX_N, kind=kind, **more)
    read = [END, *DOCUMENTS[0]]
    at_once = LiveEmbedding(model, None)(torch.tensor([read]))
    live = LiveEmbedding(model, None)
    assert torch.equal(torch.cat([live(piece[None]) for piece in torch.tensor(read).split([7, 1, 1, 32])], 1), at_once)
    expected = model.main.embed_tokens(torch.tensor([read])).detach()
    if kind == "hashed":
        before = np.array([[END] * 3 + read], np.uint32)
        expected = model.main.embed(
            torch.tensor([read]), torch.from_numpy(model.hashed.slots(before)), model.hashed.weight
        )
    torch.testing.assert_close(at_once, expected.detach())
