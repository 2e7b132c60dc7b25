"""The figures of counts and vocabularies, against slow and readable twins."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from builders import slow_counts, slow_matches
from messages import names
from portrayed import MAX_N, MIN_COUNT, SIZE, Portrayed
from workspaces import manifest, write_manifest

from scone_cli.artifacts.manifest import digest_file, read_manifest
from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import counts_schema
from scone_cli.corpus.spelling import speller_of
from scone_cli.counting.rarity import describe_tail
from scone_cli.counting.summary import CURVE_POINTS, curve_ranks
from scone_cli.errors import DamagedArtifact
from scone_cli.progress import silent
from scone_cli.vocab.summary import by_position, portray, summarise_matches


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Portrayed(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def spoilt(tmp_path):
    return Portrayed(tmp_path)


def portrait(made: Portrayed, kind: str, rows: int = 4) -> dict:
    folder = made.folder / kind
    manifest = read_manifest(folder)
    found = portray(folder, manifest, rows, speller_of(folder, manifest)[0], silent)
    return json.loads(json.dumps(found))


def test_lengths_and_curves_of_a_vocabulary(tiny):
    found = portrait(tiny, "vocab")
    matched = [match for document in tiny.held for match in slow_matches(document, tiny.fgrams, MAX_N)]
    for n, row, curve in zip(range(2, MAX_N + 1), found["lengths"], found["rank_frequency"], strict=True):
        counts = sorted((slow_counts(tiny.seen, n, 1)[f][0] for f in tiny.fgrams if len(f) == n), reverse=True)
        assert (row["n"], row["ngrams"], row["occurrences"]) == (n, len(counts), sum(counts))
        assert row["share_of_positions"] == pytest.approx(sum(len(m) == n for m in matched) / len(matched), abs=1e-6)
        assert curve == {"n": n, "rank": list(range(1, len(counts) + 1)), "count": counts}
    hits = [len(match) for match in matched if match]
    assert found["matched"] == {
        "tokens": len(matched),
        "share_matched": pytest.approx(len(hits) / len(matched), abs=1e-6),
        "mean_match_length": pytest.approx(sum(hits) / len(hits), abs=1e-4),
    }
    assert [row["size"] for row in found["ladder"]] == [30, SIZE]
    assert found["left_out"] == []


def test_matches_by_position(tiny):
    found = portrait(tiny, "vocab")["positions"]
    matches = [
        (i, match) for document in tiny.held for i, match in enumerate(slow_matches(document, tiny.fgrams, MAX_N))
    ]
    assert [row["first"] for row in found] == [0, 1, 2, 3, 4, 8, 16]
    assert [row["last"] for row in found[:-1]] == [0, 1, 2, 3, 7, 15]
    assert found[-1]["last"] == max(i for i, _ in matches)
    for row in found:
        here = [match for i, match in matches if row["first"] <= i <= row["last"]]
        hits = [len(match) for match in here if match]
        assert (row["tokens"], row["share_matched"]) == (len(here), pytest.approx(len(hits) / len(here), abs=1e-6))
        assert row["mean_match_length"] == (pytest.approx(np.mean(hits), abs=1e-4) if hits else None)


def test_no_matches_at_all():
    nothing = np.zeros(3, np.uint8)
    assert summarise_matches(nothing) == {"tokens": 3, "share_matched": 0.0, "mean_match_length": None}
    assert summarise_matches(nothing[:0])["share_matched"] is None
    assert [row["tokens"] for row in by_position(np.array([0, 0, 3]), nothing)] == [1, 1, 1]
    assert by_position(np.array([0]), nothing[:0]) == []


def check_tail(tail: dict, train: Counter, ends: list[tuple[int, bool]], last: set[int], num_tokens: int) -> None:
    """Compare with (token, whether an f-gram ends there) of every position, token by token."""
    seen, missed = Counter(token for token, _ in ends), Counter(token for token, hit in ends if not hit)
    for row in [*tail["classes"], tail["all"]]:
        first, end = row.get("first", 0), row.get("last", 10**9)
        tokens = [token for token in range(num_tokens) if first <= train[token] <= end]
        here = [token for token in tokens if seen[token]]
        assert row["tokens"] == len(tokens)
        assert row["tokens_in_no_fgram"] == sum(token not in last for token in tokens)
        assert row["occurrences"] == sum(seen[token] for token in tokens)
        assert row["tokens_seen"] == len(here)
        if here:
            share = sum(missed[token] for token in here) / row["occurrences"]
            assert row["share_unmatched"] == pytest.approx(share, abs=1e-6)
            never = sum(missed[token] == seen[token] for token in here) / len(here)
            assert row["share_never_matched"] == pytest.approx(never, abs=1e-6)
        for example in row.get("examples", []):
            assert example["token"] in tokens
            assert (example["occurrences"], example["unmatched"]) == (seen[example["token"]], missed[example["token"]])
            assert example["unmatched"] > 0
    assert [row["first"] for row in tail["classes"]] == sorted({0, *(10 ** (len(str(n)) - 1) for n in train.values())})


def test_the_tail_of_a_vocabulary(tiny):
    train = Counter(token for document in tiny.seen for token in document)
    ends = [
        (token, bool(match))
        for document in tiny.held
        for token, match in zip(document, slow_matches(document, tiny.fgrams, MAX_N), strict=True)
    ]
    tail = portrait(tiny, "vocab")["tail"]
    assert tail["where"] == "held-out text"
    check_tail(tail, train, ends, {fgram[-1] for fgram in tiny.fgrams}, tiny.num_tokens)


def test_the_tail_of_counts_is_that_of_the_training_text(tiny):
    """Where any counted n-gram ends, a counted bigram ends: so the bigrams' counts tell it without the text."""
    grams = [gram for n in range(2, MAX_N + 1) for gram in slow_counts(tiny.seen, n, MIN_COUNT)]
    train = Counter(token for document in tiny.seen for token in document)
    ends = [
        (token, bool(match))
        for document in tiny.seen
        for token, match in zip(document, slow_matches(document, grams, MAX_N), strict=True)
    ]
    tail = portrait(tiny, "counts")["tail"]
    assert tail["where"] == "training text"
    check_tail(tail, train, ends, {gram[-1] for gram in grams}, tiny.num_tokens)


def test_examples_of_the_tail_are_the_worst_first():
    """Token 0 is matched always, 1 never, 2 never and more often, 3 half the time, 4 does not occur."""
    train = np.array([15, 12, 30, 40, 50])
    found = describe_tail(
        "text", train, np.array([5, 2, 4, 4, 0]), np.array([0, 2, 4, 2, 0]), np.array([True] * 5), str
    )
    (row,) = found["classes"]
    assert (row["first"], row["last"]) == (10, 99)
    assert [example["token"] for example in row["examples"]] == [2, 1, 3]
    assert row["share_never_matched"] == 0.5


def test_lengths_curves_and_examples_of_counts(tiny):
    found = portrait(tiny, "counts")
    total = sum(len(document) for document in tiny.seen)
    for row, curve in zip(found["lengths"], found["rank_frequency"], strict=True):
        n = row["n"]
        grams = slow_counts(tiny.seen, n, MIN_COUNT if n > 1 else 1)
        counts = sorted((count for count, _ in grams.values()), reverse=True)
        assert (row["ngrams"], row["occurrences"]) == (len(counts), sum(counts))
        assert row["share_of_positions"] == pytest.approx(sum(counts) / total, abs=1e-6)
        assert curve["count"] == [counts[rank - 1] for rank in curve["rank"]]
        assert (curve["rank"][0], curve["rank"][-1]) == (1, len(counts))
        shown = [example for example in found["examples"] if example["n"] == n]
        assert [example["rank"] for example in shown[:2]] == [1, 2]
        assert shown[-1]["rank"] == len(counts)
        for example in shown:
            gram = tuple(example["tokens"])
            assert (example["count"], example["docs"]) == grams[gram]
            assert counts[example["rank"] - 1] == example["count"]
    assert [row["n"] for row in found["lengths"]] == [1, 2, 3, 4]
    assert found["left_out"] == []


def test_examples_of_a_vocabulary_have_their_own_ids(tiny):
    examples = portrait(tiny, "vocab")["examples"]
    assert [row["id"] for row in examples] == [0, 1, 2, 3, 10, 11, 12, 57, 58, 59]
    for row in examples:
        assert tuple(row["tokens"]) == tiny.fgrams[row["id"]]
        assert row["text"].replace("·", " ") == tiny.tokenizer.decode(row["tokens"]).replace("\x1b", r"\x1b").replace(
            "\n", r"\n"
        )


def test_long_curves_are_thinned_evenly():
    ranks = curve_ranks(1_000_000).tolist()
    assert ranks == sorted(set(ranks))
    assert len(ranks) <= CURVE_POINTS + 7
    assert {1, 10, 100, 1000, 10_000, 100_000, 1_000_000} <= set(ranks)
    assert max(b / a for a, b in itertools.pairwise(ranks) if a > 20) < 1.15


@pytest.mark.parametrize("kind", ["counts", "vocab"])
def test_a_folder_is_no_pattern(tiny, tmp_path, kind):
    assert portrait(Portrayed(tmp_path / "n=3" / "[a]*"), kind) == portrait(tiny, kind)


def test_a_length_without_ngrams(spoilt):
    path = spoilt.folder / "counts" / "n=4.parquet"
    write_parquet(path, counts_schema(4), counts_schema(4).empty_table())
    raw = manifest(path.parent)
    raw["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    write_manifest(path.parent, raw)
    found = portrait(spoilt, "counts")
    assert found["lengths"][-1] == {"n": 4, "ngrams": 0, "occurrences": 0, "share_of_positions": 0.0}
    assert found["rank_frequency"][-1] == {"n": 4, "rank": [], "count": []}
    assert {row["n"] for row in found["examples"]} == {1, 2, 3}


def test_what_is_missing_is_said(spoilt):
    (spoilt.folder / "counts" / "n=1.parquet").unlink()
    raw = manifest(spoilt.folder / "counts")
    del raw["files"]["n=1.parquet"]
    write_manifest(spoilt.folder / "counts", raw)
    found = portrait(spoilt, "counts")
    assert found["tail"] is None
    assert [row["share_of_positions"] for row in found["lengths"]] == [None] * 3
    assert names(found["left_out"][0], "tokens")
    found = portrait(spoilt, "vocab")
    assert found["tail"] is None
    assert found["positions"]
    (spoilt.folder / "tokens").rename(spoilt.folder / "elsewhere")
    found = portrait(spoilt, "vocab")
    assert (found["matched"], found["positions"], found["tail"]) == (None, None, None)
    assert found["lengths"][0]["ngrams"] > 0
    assert any(reason.startswith("matches: ") for reason in found["left_out"])


def test_neighbours_that_are_others_are_not_read(spoilt):
    spoilt.publish("tokens", "9", {}, {})
    found = portrait(spoilt, "vocab")
    assert found["positions"] is None
    assert any("'tokens'" in reason for reason in found["left_out"])


def test_a_flipped_bit_is_found(spoilt):
    path = spoilt.folder / "vocab" / "vocab.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="SHA-256"):
        portrait(spoilt, "vocab")


def test_shares_agree_with_select_vocab(small):
    """The real stages: what `inspect` says of the held-out text is what `select-vocab` said."""
    folder = small / "work" / "vocab"
    manifest = read_manifest(folder)
    found = portray(folder, manifest, 3, speller_of(folder, manifest)[0], silent)
    summary = manifest.summary
    assert found["matched"]["tokens"] == summary["held_out_tokens"]
    assert found["matched"]["share_matched"] == pytest.approx(summary["matched"], abs=1e-4)
    assert found["matched"]["mean_match_length"] == pytest.approx(summary["mean_match_length"], abs=1e-3)
    assert isinstance(found["positions"], list)
    chosen = [row for row in found["ladder"] or [] if row["chosen"]]
    assert [row["matched"] for row in chosen] == [pytest.approx(found["matched"]["share_matched"], abs=1e-6)]
