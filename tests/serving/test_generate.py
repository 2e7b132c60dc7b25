"""Generation: with a cache as without, from a table as live, and every way of choosing a token against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, tiny_model, trie_of
from messages import refusal

from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadSetting
from scone_cli.model.live_rows import live_rows
from scone_cli.model.model import KeyValueCache
from scone_cli.serving.embedding import LiveEmbedding, SconeEmbedding
from scone_cli.serving.generate import Sampling, Spelling, generate
from scone_cli.table.table import Table

NUM_TOKENS, MAX_N, END, CONTEXT = 30, 4, 29, 24
DOCUMENTS = random_documents(0, 29, [3000])
FGRAMS = slow_ranking(DOCUMENTS, MAX_N, 300, 2)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
GREEDY = Sampling(temperature=0)
PROMPTS = [[3], [3, 10, 2, 7], random_documents(2, 29, [20])[0]]


def model_of(kind: str):
    more = {"hashed": {"hashed_rows": 90, "end_of_document": END}, "scone": {"combine": "add", "learned_rows": 200}}
    return tiny_model(NUM_TOKENS, MAX_N, kind=kind, context=CONTEXT, seed=3, **more.get(kind, {}))


@torch.no_grad()
def slow_greedy(model, prompt, max_tokens):
    """Without a cache and without a state: the whole text again for every token."""
    trie, read, written = TRIE if model.fgram else None, [END, *prompt], []
    while len(read) <= CONTEXT and len(written) < max_tokens:
        tokens = np.array([[END] * model.history + read], np.uint32)
        ids, _ = TRIE.index().match(tokens[0, model.history :])
        slots, rows = live_rows(model, tokens, ids[None], trie)
        hidden = model.main(model.main.embed(torch.tensor([read]), slots, rows))
        written.append(int((hidden[0, -1] @ model.main.head_weight.T).argmax()))
        read.append(written[-1])
        if written[-1] == END:
            break
    return written


# ---- with a cache as without, from a table as live ----------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("kind", ["scone", "plain", "hashed"])
def test_greedy_is_the_same_without_a_cache(kind, prompt):
    model = model_of(kind)
    embed = LiveEmbedding(model, TRIE if kind == "scone" else None)
    expected = slow_greedy(model, prompt, 15)
    assert list(generate(model, embed, prompt, GREEDY, 15, END)) == expected
    assert len(expected) == 15 or expected[-1] == END or len(prompt) + len(expected) == CONTEXT


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_from_a_float32_table_is_the_same_as_live(tmp_path, prompt):
    model = model_of("scone")
    table = Table.open(make_table(tmp_path, TRIE, model.rows(TRIE, np.arange(len(FGRAMS))).detach()))
    live = list(generate(model, LiveEmbedding(model, TRIE), prompt, GREEDY, 40, END))
    assert list(generate(model, SconeEmbedding(model.main, table), prompt, GREEDY, 40, END)) == live
    assert live != list(generate(model, model.main.embed_tokens, prompt, GREEDY, 40, END))


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [5, 1, 1, 10, 7], [23, 1]], ids=str)
def test_pieces_through_a_cache_are_the_whole(sizes):
    model = model_of("plain")
    x = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(model.config, 3, 24)
    with torch.no_grad():
        pieces = [model.main(piece, cache) for piece in x.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model.main(x), rtol=1e-4, atol=1e-4)
    assert cache.length == 24


def test_a_cache_that_is_full_takes_no_more():
    model = model_of("plain")
    cache = KeyValueCache(model.config, 1, 2)
    with torch.no_grad():
        model.main(torch.zeros(1, 2, 16), cache)
        with refusal(AssertionError, "3", "2"):
            model.main(torch.zeros(1, 1, 16), cache)
    with refusal(AssertionError, "24"):
        KeyValueCache(model.config, 1, 25)


# ---- where it ends -----------------------------------------------------------------------------------------------


class Recorded:
    """An embedding that notes how many tokens it is asked for."""

    def __init__(self, model) -> None:
        self.sizes, self._embed = list[int](), model.main.embed_tokens

    def __call__(self, tokens):
        self.sizes.append(tokens.shape[1])
        return self._embed(tokens)


@pytest.mark.parametrize("length", [0, 1, 22, 23])
def test_it_ends_when_the_context_is_full(length):
    """The last token is written but not read; all before it are, the prompt in one pass."""
    model, embed = model_of("plain"), Recorded(model_of("plain"))
    written = list(generate(model, embed, [3] * length, GREEDY, 1000, end=END))
    written_for = len(embed.sizes)
    assert embed.sizes == [1 + length, *[1] * (written_for - 1)]
    assert len(written) == CONTEXT - length or written[-1] == END


def test_it_ends_after_the_tokens_asked_for_and_at_the_end_of_a_document():
    model = model_of("plain")

    def written(end):
        """Where `end` stands the model reads 3, so that it makes no difference but where the text ends."""
        embed = lambda tokens: model.main.embed_tokens(torch.where(tokens == end, 3, tokens))  # noqa: E731
        return list(generate(model, embed, [3], Sampling(3.0), 18, end))

    whole = written(END)
    assert (len(whole), END in whole) == (18, False)
    assert written(whole[6]) == whole[: whole.index(whole[6]) + 1]


def test_a_prompt_longer_than_the_context_is_refused():
    model = model_of("plain")
    with refusal(BadSetting, "24", "23"):
        next(generate(model, model.main.embed_tokens, [3] * 24, GREEDY, 1, END))


# ---- how a token is chosen ---------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.5, 2.0, -1.0, 2.0, 1.0])


def shares(sampling: Sampling) -> list[float]:
    random = torch.Generator().manual_seed(0)
    drawn = [sampling.choose(LOGITS, random) for _ in range(1500)]
    return [drawn.count(token) / 1500 for token in range(5)]


@pytest.mark.parametrize(
    ("sampling", "kept", "temperature"),
    [
        (Sampling(1.0), [0, 1, 2, 3, 4], 1.0),
        (Sampling(0.5), [0, 1, 2, 3, 4], 0.5),
        (Sampling(1.0, top_k=3), [1, 3, 4], 1.0),
        (Sampling(2.0, top_k=100), [0, 1, 2, 3, 4], 2.0),
        (Sampling(1.0, top_p=0.75), [1, 3], 1.0),  # 0.38 + 0.38 are enough
        (Sampling(1.0, top_p=0.78), [1, 3, 4], 1.0),  # and here they are not
        (Sampling(1.0, top_p=1.0), [0, 1, 2, 3, 4], 1.0),
        (Sampling(3.0, top_k=3, top_p=0.8), [1, 3, 4], 3.0),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_should(sampling, kept, temperature):
    weights = torch.zeros(5)
    weights[kept] = (LOGITS[kept] / temperature).exp()
    found = shares(sampling)
    assert found == pytest.approx((weights / weights.sum()).tolist(), abs=0.05)
    assert [token for token, share in enumerate(found) if share] == kept


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(1e-300), Sampling(5.0, top_k=1), Sampling(5.0, top_p=1e-9)], ids=str
)
def test_the_likeliest_is_taken_where_there_is_no_chance(sampling):
    logits = torch.tensor([0.5, 2.0, -1.0, 1.9, 1.0])
    assert {sampling.choose(logits, torch.Generator().manual_seed(seed)) for seed in range(20)} == {1}


def test_a_seed_is_a_text():
    model = model_of("plain")
    texts = [
        list(generate(model, model.main.embed_tokens, [3], Sampling(2.0, seed=seed), 15, END)) for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_values_out_of_range_are_refused(values):
    ((name, value),) = values.items()
    with refusal(BadSetting, f"--{name.replace('_', '-')}", f"{value}"):
        Sampling(**values).check()


# ---- as text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["the cat", "naïve € 你好 👩‍💻 end", "a\ufffdb\ufffd", "", "\n\n  x"],
    ids=["words", "several bytes", "unknown", "none", "blanks"],
)
def test_the_text_that_streams_is_the_text(text):
    tokenizer = Tokenizer(train_tokenizer(iter(["the cat sat on the mat"]), 262), "tokenizer.json")
    ids = tokenizer.encode_batch([text])[0].tolist()
    spelling = Spelling(tokenizer, tokenizer.encode_batch(["é the"])[0].tolist())
    pieces = [spelling(token) for token in ids]
    assert "".join(pieces) + spelling.rest() == text
    assert not any(piece.endswith("\ufffd") for piece in pieces)


def test_bytes_that_do_not_become_a_character_are_told_at_the_end():
    tokenizer = Tokenizer(train_tokenizer(iter(["the cat"]), 262), "tokenizer.json")
    euro = tokenizer.encode_batch(["€"])[0].tolist()
    assert len(euro) == 3
    spelling = Spelling(tokenizer, [])
    pieces = [spelling(token) for token in [*euro, euro[0], *euro, *euro[:2]]]
    assert "".join(pieces) + spelling.rest() == tokenizer.decode([*euro, euro[0], *euro, *euro[:2]])
