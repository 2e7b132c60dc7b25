"""Likelihoods by hand, and against a loop over single tokens; windows as the harness cuts them; where texts end."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_matches, slow_ranking, stream_of, tiny_model, trie_of
from letters import FOLLOWS, Letters, bigram_model
from messages import refusal

from scone_cli.errors import BadData
from scone_cli.evaluation import scoring
from scone_cli.evaluation.run_arms import Arm, run_arm
from scone_cli.evaluation.scoring import Scorer, encode_pairs, windows_of_request, wish_of
from scone_cli.progress import silent
from scone_cli.serving.generate import Sampling
from scone_cli.table.table import Table

# ---- by hand -----------------------------------------------------------------------------------------------------

BY_HAND = Scorer(Arm("plain", bigram_model(FOLLOWS)), Letters("abc "), 4)


@pytest.mark.parametrize(
    ("context", "continuation", "halvings", "is_greedy"),
    [
        ("a", "b", 1, True),
        ("a", "b c", 3, True),  # b after a, the blank after b, c after the blank: each one half
        ("a", "c", 2, False),
        ("a", "ba", 3, False),  # the first is the likeliest, the second is not
        ("a", "cb", 4, False),
        ("", "ab", 2, True),  # a after the end of a document
        ("", "b", 3, False),
        ("b ", "c", 2, True),  # the blank belongs to what is asked: one half for it, one for c
        ("b  ", "c", 6, False),
        ("  ", "c", 8, False),
        ("abc", "", 0, True),
    ],
)
def test_likelihoods_worked_by_hand(context, continuation, halvings, is_greedy):
    [found] = BY_HAND.loglikelihood([(context, continuation)])
    assert found.log_probability == pytest.approx(-halvings * math.log(2), abs=1e-4)
    assert found.is_greedy == is_greedy


def test_whole_texts_worked_by_hand():
    """Each token once; the first follows the end of a document."""
    texts = ["", "a", "ab c", "ab c" * 5]  # after c comes a with an eighth
    expected = [0, 1, 4, 20 + 4 * 2]
    found = BY_HAND.loglikelihood_rolling(texts)
    assert found == pytest.approx([-halvings * math.log(2) for halvings in expected], abs=1e-3)


@pytest.mark.parametrize(
    ("prompt", "how", "expected"),
    [
        ("a", {"until": ["c"]}, "b "),
        ("a", {"until": "c"}, "b "),
        ("a", {"until": [" c", "zz"]}, "b"),  # a string may be of several tokens
        ("a", {"until": ["c", "b"]}, ""),
        ("a", {"until": []}, "b c"),  # then the document ends
        ("a", {}, "b c"),
        ("a", {"until": [""]}, "b c"),
        ("", {"until": [" "]}, "ab"),
        ("a", {"until": ["zz"], "max_gen_toks": 2}, "b "),
        ("a", {"max_new_tokens": 1}, "b"),
        ("a", {"max_gen_toks": 2, "max_tokens": 1}, "b "),
        ("a", {"do_sample": False, "temperature": 5.0}, "b c"),
    ],
    ids=str,
)
def test_texts_worked_by_hand(prompt, how, expected):
    assert BY_HAND.generate_until([(prompt, how)]) == [expected]
    assert BY_HAND.cut == set()


def test_a_text_ends_where_the_context_is_full():
    """a b a b ... for ever; the context has 8 tokens, of which the end of a document is the first."""
    scorer = Scorer(Arm("plain", bigram_model([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]])), Letters("ab"), 2)
    assert scorer.generate_until([("ab", {"max_gen_toks": 4}), ("ab", {}), ("", {})]) == ["abab", "ababab", "abababab"]
    assert scorer.generate_until([("ab" * 10, {})]) == ["ababa"]  # 4 tokens are read, the last written is not
    assert scorer.cut == {0}


def test_tokens_are_drawn_where_a_task_says_so():
    request = ("a", {"temperature": 1.0, "max_gen_toks": 6})
    first, second = (BY_HAND.generate_until([request] * 30) for _ in range(2))
    assert first == second  # every request has its own seed
    assert len(set(first)) > 10
    assert set(BY_HAND.generate_until([("a", {"temperature": 1.0, "top_k": 1})] * 5)) == {"b c"}


def test_what_a_task_wishes():
    assert wish_of({}, 3) == ([], 256, Sampling(0.0, seed=3))
    assert wish_of({"until": "x"}, 0).stops == ["x"]
    assert wish_of({"until": ["", "x", 5]}, 0).stops == ["x", "5"]
    assert wish_of({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}, 3).sampling == Sampling(
        0.5, None, 0.9, 3
    )
    assert wish_of({"temperature": None}, 3).sampling.temperature == 0


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"max_gen_toks": "x"},
        {"max_gen_toks": -1},
        {"max_tokens": math.inf},
        {"until": 5},
    ],
    ids=str,
)
def test_wishes_that_mean_nothing(how):
    with refusal(BadData, "generation_kwargs", next(iter(how))):
        wish_of(how, 0)


# ---- tokens and windows ------------------------------------------------------------------------------------------


def test_a_pair_is_encoded_as_one_text_where_that_can_be():
    """With `bc` as one token: `ab` and `c` are apart, or the b would be asked for although it is given."""
    pairs = [("ab", "c"), ("a", "bc"), ("a ", "bc"), ("", "bc"), ("ab", "")]
    found = [(before.tolist(), after.tolist()) for before, after in encode_pairs(Letters("abc ", "bc"), pairs)]
    assert found == [([0, 1], [2]), ([0], [4]), ([0], [3, 4]), ([], [4]), ([0, 1], [])]


@pytest.mark.parametrize(
    ("request_", "context", "expected"),
    [
        (
            (
                0,
                0,
                10,
            ),
            4,
            [(0, 0, 4), (4, 4, 8), (6, 8, 10)],
        ),
        ((0, 0, 8), 4, [(0, 0, 4), (4, 4, 8)]),
        ((0, 0, 3), 4, [(0, 0, 3)]),
        ((0, 2, 4), 4, [(0, 2, 4)]),
        ((0, 6, 8), 4, [(4, 6, 8)]),  # cut on the left
        ((5, 6, 12), 4, [(6, 6, 10), (8, 10, 12)]),  # a continuation that is itself too long
        ((5, 9, 9), 4, []),
    ],
    ids=str,
)
def test_windows_worked_by_hand(request_, context, expected):
    assert windows_of_request(*request_, context) == expected


@pytest.mark.skipif(
    not importlib.util.find_spec("lm_eval"), reason="lm-evaluation-harness is not installed (extra eval)"
)
@pytest.mark.parametrize("length", [1, 4, 5, 8, 11, 23])
@pytest.mark.parametrize("context", [1, 3, 4, 30])
def test_whole_texts_are_cut_as_the_harness_cuts_them(length, context):
    from lm_eval.utils import get_rolling_token_windows  # noqa: PLC0415

    tokens = list(range(100, 100 + length))
    expected = list(get_rolling_token_windows(tokens, 7, context, 1))
    read = [7, *tokens]
    windows = windows_of_request(0, 0, length, context)
    assert [(read[start:end], tokens[first:end]) for start, first, end in windows] == expected


# ---- every arm against a loop over single tokens ----------------------------------------------------------------

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
FGRAMS = slow_ranking(random_documents(0, 7, [300]), MAX_N, 60, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
MODEL = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=40)
ROWS = MODEL.rows(TRIE, np.arange(60)).detach()
LETTERS = Letters("abcdefg")
PAIRS = [
    (before, after)
    for seed, sizes in enumerate([(5, 2), (0, 3), (12, 3), (30, 1), (3, 8), (3, 20), (0, 25), (6, 1), (7, 1), (8, 8)])
    for before, after in [[LETTERS.decode(each) for each in random_documents(seed, 7, sizes)]]
]


@pytest.fixture(params=["live", "table", "none", "hashed", "plain"])
def arm(request, tmp_path):
    if request.param == "table":
        return Arm("table", MODEL, table=Table.open(make_table(tmp_path, TRIE, ROWS)))
    if request.param in {"live", "none"}:
        return Arm(request.param, MODEL, trie=TRIE if request.param == "live" else None)
    more = {"hashed_rows": 60, "end_of_document": END} if request.param == "hashed" else {}
    return Arm(request.param, tiny_model(NUM_TOKENS, MAX_N, kind=request.param, **more))


@torch.no_grad()
def embedded(arm, read):
    """What enters the first block for a document, f-grams matched in the whole of it [len(read), D]."""
    main = arm.model.main
    if arm.model.hashed is not None:
        slots = torch.from_numpy(arm.model.hashed.slots(np.array([[END] * arm.model.history + read], np.uint32)))
        return main.embed(torch.tensor([read]), slots, arm.model.hashed.weight)[0]
    known = FGRAMS if arm.name in {"live", "table"} else []
    matches = [(), *slow_matches(read[1:], known, MAX_N)]
    return torch.stack(
        [
            ROWS[FGRAMS.index(match)] if match else main.embed_tokens(torch.tensor(token))
            for token, match in zip(read, matches, strict=True)
        ]
    )


@torch.no_grad()
def slow_likelihood(arm, before, after):
    """Token by token: at most a context of what comes before, and of the last window as much as there is."""
    read = [END, *before, *after]
    x, total, is_greedy = embedded(arm, read), 0.0, True
    for i in range(1 + len(before), len(read)):
        first = 1 + len(before)
        end = min(first + (i - first) // CONTEXT * CONTEXT + CONTEXT, len(read))  # of the window that predicts it
        logits = arm.model.main(x[max(0, end - 1 - CONTEXT) : i][None])[0, -1] @ arm.model.main.head_weight.T
        total += logits.log_softmax(0)[read[i]].item()
        is_greedy &= int(logits.argmax()) == read[i]
    return total, is_greedy


@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
def test_likelihoods_are_those_of_a_loop_over_single_tokens(arm, monkeypatch, batch_tokens):
    monkeypatch.setattr(scoring, "BATCH_TOKENS", batch_tokens)
    scorer = Scorer(arm, LETTERS, END)
    found = scorer.loglikelihood(PAIRS)
    expected = [slow_likelihood(arm, *(ids.tolist() for ids in LETTERS.encode_batch(pair))) for pair in PAIRS]
    assert [each.log_probability for each in found] == pytest.approx([total for total, _ in expected], abs=2e-4)
    assert [each.is_greedy for each in found] == [is_greedy for _, is_greedy in expected]
    # One more than the context fits: the last token is not read. A continuation alone that is too long hides no context.
    assert scorer.cut == {
        i for i, (before, after) in enumerate(PAIRS) if before and len(before + after[:CONTEXT]) > CONTEXT
    }


def test_whole_texts_are_continuations_of_nothing(arm):
    scorer = Scorer(arm, LETTERS, END)
    texts = [before + after for before, after in PAIRS]
    alone = scorer.loglikelihood([("", text) for text in texts])
    assert scorer.loglikelihood_rolling(texts) == [each.log_probability for each in alone]
    assert scorer.cut == set()


def test_what_comes_later_changes_nothing(arm):
    """A continuation is as likely as its beginning, and then its end: matches too look at what came before alone."""
    scorer = Scorer(arm, LETTERS, END)
    whole, first, rest = (
        each.log_probability for each in scorer.loglikelihood([("abc", "dga"), ("abc", "d"), ("abcd", "ga")])
    )
    assert whole == pytest.approx(first + rest, abs=1e-4)


def test_arms_differ():
    """Or the tests above would not tell them apart."""
    live, none = (Scorer(Arm("x", MODEL, trie=trie), LETTERS, END).loglikelihood(PAIRS) for trie in (TRIE, None))
    assert sum(abs(a.log_probability - b.log_probability) > 0.1 for a, b in zip(live, none, strict=True)) > 5


@torch.no_grad()
def slow_text(arm, prompt, max_tokens, room):
    """The likeliest tokens, each after the whole text once more, of which the first tokens beyond `room` are not seen."""
    read, hidden = [END, *prompt], max(0, 1 + len(prompt) - room)
    while len(read) - 1 - len(prompt) < max_tokens and len(read) - hidden <= CONTEXT:
        last = arm.model.main(embedded(arm, read)[hidden:][None])[0, -1]
        read.append(int((last @ arm.model.main.head_weight.T).argmax()))
        if read[-1] == END:
            break
    return LETTERS.decode([token for token in read[1 + len(prompt) :] if token != END])


@pytest.mark.parametrize(("max_tokens", "room"), [(3, 5), (256, 4)])
def test_texts_are_those_of_a_loop_over_whole_texts(arm, max_tokens, room):
    """Also of a prompt that is cut on the left, where f-grams begin that end in what is seen."""
    prompts = [before for before, _ in PAIRS]
    scorer = Scorer(arm, LETTERS, END)
    found = scorer.generate_until([(prompt, {"max_gen_toks": max_tokens}) for prompt in prompts])
    assert found == [slow_text(arm, LETTERS.encode_batch([prompt])[0].tolist(), max_tokens, room) for prompt in prompts]
    assert scorer.cut == {i for i, prompt in enumerate(prompts) if 1 + len(prompt) > room}


def test_progress_is_told(arm):
    told = []
    scorer = Scorer(arm, LETTERS, END, lambda *args: told.append(args), "task x")
    scorer.loglikelihood(PAIRS)
    assert told[-1] == ("task x", 15, 15, "windows")
    scorer.generate_until([("a", {"max_gen_toks": 1})] * 3)
    assert told[-1] == ("task x", 3, 3, "texts")


def test_nothing_to_ask():
    assert BY_HAND.loglikelihood([]) == BY_HAND.loglikelihood_rolling([]) == BY_HAND.generate_until([]) == []


# ---- against an evaluation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "scone", "hashed"])
def test_a_text_of_whole_contexts_is_as_likely_as_its_loss_says(kind, contexts):
    """Asked as a whole text or as a continuation of nothing, windows are those of `scone eval`: side by side."""
    options = {"hashed_rows": 30, "end_of_document": 4} if kind == "hashed" else {}
    model = tiny_model(5, 3, kind=kind, **options)
    trie = trie_of(slow_ranking(random_documents(0, 4, [300]), 3, 30, 1), 5, 3) if kind == "scone" else None
    arm = Arm(kind, model, trie)
    document = random_documents(7, 4, [contexts * model.config.context])[0]
    text = "".join("abc "[token] for token in document)
    loss = run_arm(arm, stream_of([document]), 4, silent).losses.astype(np.float64).sum()
    scorer = Scorer(arm, Letters("abc "), 4)
    assert scorer.loglikelihood_rolling([text]) == pytest.approx([-loss], rel=1e-5)
    assert scorer.of_tokens([(np.zeros(0, np.uint32), np.array(document, np.uint32))])[
        0
    ].log_probability == pytest.approx(-loss, rel=1e-5)
