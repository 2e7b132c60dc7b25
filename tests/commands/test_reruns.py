"""The pipeline again: the same, with one thing changed, with files in another order, with other held-out documents."""

import collections
import itertools
import json
import random
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from messages import error_of, was_made
from workspaces import (
    COUNT,
    RECIPE,
    SELECT,
    TRAIN,
    commands,
    contents,
    copy_of,
    installed,
    manifest,
    quality,
    texts,
    write_manifest,
)

from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import split_of

# What is changed in the recipe, one after the other, and the commands that must do something then.
CHANGES = [
    ("checkpoint-every = 40", "checkpoint-every = 7", ""),
    ('dtype = "float16"', 'dtype = "float32"', "precompute eval"),
    ("steps = 120", "steps = 3", "train-fgram plain precompute eval"),
    ("size = 4000", "size = 3000", "select-vocab train-fgram precompute eval"),
    ("min-count = 4", "min-count = 5", "count-ngrams select-vocab train-fgram precompute eval"),
    ('text-field = "text"', "ladder = true", "eval"),
]


def times(folder: Path) -> dict[Path, int]:
    """Of what stages make: not of the lock, nor of the records of runs."""
    found = (path for path in folder.rglob("*") if path.name != ".lock" and ".runs" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_second_run_is_up_to_date_and_touches_nothing(made):
    work = made / "work"
    before = contents(work), times(work)
    for command in commands(made / "corpus"):
        found = json.loads(installed(work, *command, "--json").stdout)
        assert (found["stage"], found["up_to_date"]) == (command[0], True)
        assert Path(found["out"]).parent == work
        assert len(found) > 8  # with all that was found out when it was made
    assert (contents(work), times(work)) == before


def test_up_to_date_is_said(made, scone):
    folder = made / "work" / "vocab"
    stage = ("--config", RECIPE, "--workspace", made / "work", "select-vocab")
    code, out, _ = scone(*stage)
    assert code == 0
    assert out.startswith(f"select-vocab -> {folder} (")
    assert out.endswith(f"scone inspect {folder}\n")
    assert not was_made(out)
    assert len(out.splitlines()) == 1
    code, out, _ = scone("--verbose", *stage)
    assert not was_made(out)
    assert "4,000" in out.splitlines()[1]


def test_one_changed_setting_reruns_just_what_depends_on_it(made, forks, tmp_path):
    work, recipe = copy_of(made / "work", tmp_path / "work"), tmp_path / "recipe.toml"
    text, differences = RECIPE.read_text(), {}
    tokens = times(work / "tokens")
    for old, new, expected in CHANGES:
        assert text.count(old) == 1
        text = text.replace(old, new)
        recipe.write_text(text)
        ran = []
        for command in commands(made / "corpus"):
            ended = forks.run("--config", recipe, "--workspace", work, *command, "--json")
            assert ended.code == 0, ended.err
            if not json.loads(ended.out)["up_to_date"]:
                ran.append("plain" if "--baseline" in command else command[0])
        assert ran == expected.split(), new
        live, table = (quality(work)[arm, "nats_per_token"]["value"] for arm in ("live", "table"))
        differences[new] = abs(live - table)
    assert max(differences[new] for _, new, _ in CHANGES[1:]) < 1e-5  # the table is float32 since the second change
    assert times(work / "tokens") == tokens


# ---- what must make no difference --------------------------------------------------------------------------------


def test_ids_and_counts_do_not_depend_on_the_order_of_documents_and_files(made, forks, tmp_path):
    """Nor on formats, names, or the parts and buckets in which the work is done: those of `forks` are tiny."""
    documents = texts()
    random.Random(3).shuffle(documents)
    corpus, work = tmp_path / "corpus", tmp_path / "work"
    corpus.mkdir()
    for number in range(5):
        lines = (json.dumps({"text": text}) + "\n" for text in documents[number::5])
        (corpus / f"other-{number}.jsonl").write_text("".join(lines))
    for args in (("count-ngrams", corpus), ("select-vocab",)):
        ended = forks.run("--config", RECIPE, "--workspace", work, *args)
        assert ended.code == 0, ended.err
    assert len(list((work / "tokens").glob("part-*.parquet"))) > 20
    for name in ("tokens/tokenizer.json", "counts/n=2.parquet", "counts/n=3.parquet", "counts/n=4.parquet"):
        assert (work / name).read_bytes() == (made / "work" / name).read_bytes()
    assert (work / "vocab/vocab.parquet").read_bytes() == (made / "work" / "vocab/vocab.parquet").read_bytes()


def occurrences(work: Path, splits: tuple[str, ...], n: int) -> tuple[collections.Counter, collections.Counter]:
    """Of every n-gram in the documents of these splits: how often it occurs, and in how many documents."""
    counts, docs = collections.Counter(), collections.Counter()
    for row in pl.read_parquet(work / "tokens/part-*.parquet").filter(pl.col("split").is_in(splits))["tokens"]:
        tokens = row.to_list()
        ngrams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
        counts.update(ngrams)
        docs.update(set(ngrams))
    return counts, docs


@pytest.mark.parametrize("n", [2, 4])
def test_counts_are_of_the_train_split_and_of_nothing_else(made, n):
    counts, docs = occurrences(made / "work", ("train",), n)
    written = pl.read_parquet(made / "work" / "counts" / f"n={n}.parquet")
    found = {tuple(tokens): (count, num_docs) for tokens, count, num_docs in written.rows()}
    assert found == {ngram: (count, docs[ngram]) for ngram, count in counts.items() if count >= 4}
    with_held_out, _ = occurrences(made / "work", ("train", HELD_OUT), n)
    assert len(found) < sum(count >= 4 for count in with_held_out.values())


def test_documents_are_on_the_side_that_their_text_says(made):
    sides = pl.read_parquet(made / "work" / "tokens" / "part-*.parquet").select("doc", "split").rows()
    plain = {name: split for name, split in sides if name.startswith("plain/")}
    assert set(plain.values()) == {"train", HELD_OUT}
    for name, split in plain.items():
        assert split == split_of((made / "corpus" / name).read_bytes().decode(), 0.05)


def test_what_is_held_out_teaches_nothing(small, forks, tmp_path):
    """Other held-out documents beside the same others: the same tokenizer, counts, f-grams and weights."""
    documents = [path.read_text() for path in sorted((small / "corpus").iterdir())]
    train = [text for text in documents if split_of(text, 0.1) == "train"]
    held_out = [text for text in documents if split_of(text, 0.1) == HELD_OUT]
    others = ("Something else entirely, " * number for number in itertools.count(100))
    other = list(itertools.islice((text for text in others if split_of(text, 0.1) == HELD_OUT), len(held_out)))
    for name, chosen in (("one", held_out), ("two", other)):
        corpus, work = tmp_path / name, tmp_path / f"{name}-work"
        corpus.mkdir()
        for part, texts_of_part in (("train", train), ("held-out", chosen)):
            (corpus / f"{part}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts_of_part))
        for args in (("count-ngrams", corpus, *COUNT), ("select-vocab", *SELECT), ("train-fgram", *TRAIN)):
            ended = forks.run("--workspace", work, *args)
            assert ended.code == 0, ended.err
    learned = ["tokens/tokenizer.json", "counts/n=2.parquet", "counts/n=4.parquet", "vocab/vocab.parquet"]
    for name in (*learned, "model/main.safetensors", "model/fgram.safetensors"):
        assert (tmp_path / "one-work" / name).read_bytes() == (tmp_path / "two-work" / name).read_bytes()
    one, two = (pq.read_table(tmp_path / f"{name}-work" / "model/log.parquet") for name in ("one", "two"))
    assert one["loss"].equals(two["loss"])
    assert not one["held_out_loss"].equals(two["held_out_loss"])


def test_eval_says_when_a_corpus_was_trained_on(small, tmp_path, forks):
    workspace = copy_of(small / "work", tmp_path / "work")
    ended = forks.run("--workspace", workspace, "eval", small / "corpus", "--json")
    assert ended.code == 0, ended.err
    (corpus,) = json.loads(ended.out)["method"]["corpora"]
    held_out = manifest(workspace / "tokens")["summary"]["held_out_documents"]
    assert (corpus["documents"], corpus["in_training_split"]) == (60, 60 - held_out)
    shown = forks.run("--verbose", "--workspace", workspace, "eval", small / "corpus")
    assert ["corpus", "60", str(60 - held_out)] in [line.split() for line in shown.out.splitlines()]


def test_another_tokenizer_from_the_same_recipe_makes_all_that_follows_stale(small, tmp_path, forks):
    """As another version of the library may train it: same settings, same texts, same fingerprint, other ids."""
    workspace = copy_of(small / "work", tmp_path / "work")
    described = manifest(workspace / "tokens") | {"tokenizer": "f" * 64}
    write_manifest(workspace / "tokens", described)
    for command in ("select-vocab", "train-fgram"):
        ended = forks.run("--workspace", workspace, command)
        assert ended.code == 65
        error_of(ended.err, str(workspace / ("counts" if command == "select-vocab" else "vocab")), "tokens")
    ended = forks.run("--workspace", workspace, "count-ngrams", small / "corpus", *COUNT)
    assert (ended.code, was_made(ended.out)) == (0, True), ended.err
