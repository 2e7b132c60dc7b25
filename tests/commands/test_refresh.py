"""A table of a newer vocabulary for a model as it is: `precompute --vocab`, and what eval, verify and serving make of it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from messages import error_of
from workspaces import COUNT, SELECT, TRAIN, contents, copy_of, manifest, quality, write_manifest

from scone_cli.model.model import SconeModel
from scone_cli.serving import load_model
from scone_cli.table import Table
from scone_cli.table.precompute import row_alone
from scone_cli.vocab.index import NONE
from scone_cli.vocab.vocabulary import Vocabulary

LEARNED = 400


def write_new_documents(corpus: Path) -> None:
    """Forty documents: words of their own between words of the documents that are there."""
    chance = random.Random(2)
    own = ["".join(chance.choices("ghijklmnop", k=chance.randint(2, 7))) for _ in range(20)]
    known = sorted(set((corpus / "0.txt").read_text().split()))[:40]
    for number in range(40):
        text = " ".join(chance.choice(chance.choice((own, known))) for _ in range(900))
        (corpus / f"new-{number}.txt").write_text(text)


@pytest.fixture(scope="module")
def grown(small, forks, tmp_path_factory) -> Path:
    """A workspace whose model has learned rows, counted again with more text and selected again; the old parts beside it.

    before/: the workspace before the corpus grew.
    """
    folder = tmp_path_factory.mktemp("grown")
    corpus, work = copy_of(small / "corpus", folder / "corpus"), copy_of(small / "work", folder / "work")

    def run(*args: object) -> None:
        ended = forks.run("--workspace", work, *args)
        assert ended.code == 0, ended.err

    tokenizer = copy_of(work / "tokens", folder / "given") / "tokenizer.json"
    count = ("count-ngrams", corpus, "--tokenizer", tokenizer, *COUNT[2:])
    run(*count)
    run("select-vocab", *SELECT)
    run("train-fgram", *TRAIN, "--learned-rows", LEARNED)
    run("precompute", "--dtype", "float32")
    copy_of(work, folder / "before")
    write_new_documents(corpus)
    run(*count)
    run("select-vocab", "--size", 1500)
    run("precompute", "--dtype", "float32", "--vocab", work / "vocab")
    return folder


@pytest.fixture
def work(grown, tmp_path) -> Path:
    return copy_of(grown / "work", tmp_path / "work")


def fgrams_of(folder: Path) -> list[tuple[int, ...]]:
    return [tuple(tokens) for tokens in pq.read_table(folder / "vocab.parquet")["tokens"].to_pylist()]


def rows_of(folder: Path) -> np.ndarray:
    with Table.open(folder, "ram") as table:
        return table.rows(np.arange(len(table))).numpy()


# ---- the rows ----------------------------------------------------------------------------------------------------


def test_fgrams_that_were_there_keep_their_rows(grown):
    before = dict(zip(fgrams_of(grown / "before" / "table"), rows_of(grown / "before" / "table"), strict=True))
    now = dict(zip(fgrams_of(grown / "work" / "table"), rows_of(grown / "work" / "table"), strict=True))
    shared = before.keys() & now.keys()
    assert len(shared) > 400
    assert len(now.keys() - before.keys()) > 200
    for fgram in shared:  # in batches with others: sums may be rounded differently
        np.testing.assert_allclose(now[fgram], before[fgram], atol=2e-5)


def test_new_fgrams_get_what_the_model_gives_them_with_the_learned_rows_of_their_suffixes(grown):
    model, before = SconeModel.load(grown / "work" / "model"), fgrams_of(grown / "before" / "vocab")
    with torch.no_grad():
        model.learned.weight.normal_(generator=torch.Generator().manual_seed(0))  # six steps have taught it little
    places = {fgram: number for number, fgram in enumerate(before[:LEARNED])}
    assert fgrams_of(grown / "before" / "vocab")[:LEARNED] == [
        tuple(tokens)
        for tokens in pq.read_table(grown / "work" / "model" / "learned-fgrams.parquet")["tokens"].to_pylist()
    ]
    trie = Vocabulary.read(grown / "work" / "vocab", model.config.vocab_size, 4).trie
    fgrams = fgrams_of(grown / "work" / "vocab")
    of_another = [number for number, fgram in enumerate(fgrams) if fgram not in before]
    with_learned = [i for i in of_another if any(fgrams[i][first:] in places for first in range(1, len(fgrams[i]) - 1))]
    assert with_learned
    slots = model.learned.slots(trie, np.arange(len(fgrams)))
    for fgram, found in zip(fgrams, slots, strict=True):
        endings = [fgram[first:] for first in range(len(fgram) - 1)]
        assert {number for number in found.tolist() if number >= 0} == {places[e] for e in endings if e in places}
    with torch.no_grad():
        found = model.rows(trie, np.array(with_learned[:40]))
    for number, row in zip(with_learned[:40], found, strict=True):
        torch.testing.assert_close(row, row_alone(model, trie.index(), fgrams[number]), atol=1e-5, rtol=1e-4)


def test_the_vocabulary_of_the_training_gives_the_same_bytes_named_or_not(scone, grown, tmp_path):
    work = copy_of(grown / "before", tmp_path / "work")
    before = contents(work / "table")
    code, out, err = scone("--workspace", work, "precompute", "--dtype", "float32", "--vocab", work / "vocab")
    assert (code, "up to date" in out) == (0, True), err
    code, _, err = scone("--workspace", work, "precompute", "--dtype", "float32", "--vocab", work / "vocab", "--force")
    assert code == 0, err
    assert contents(work / "table") == before


# ---- what reads it -----------------------------------------------------------------------------------------------


def test_eval_compares_the_table_with_that_of_the_old_vocabulary(scone, work, grown):
    code, _, err = scone("--workspace", work, "eval", "--no-speed", "--table", f"old={grown / 'before' / 'table'}")
    assert code == 0, err
    found = quality(work)
    assert {arm for arm, _ in found} == {"live", "table", "table:old", "none"}
    losses = {arm: found[arm, "nats_per_token"]["value"] for arm in ("live", "table", "table:old", "none")}
    assert losses["live"] == pytest.approx(losses["table"], abs=1e-5)
    assert losses["table"] != losses["table:old"]
    method = json.loads((work / "eval" / "results.json").read_text())["method"]
    assert method["trained_on_other_tokens"] == ["model"]
    assert method["tables"]["table"]["rows"] == 1500
    assert method["tables"]["table:old"]["rows"] == 600


def test_the_old_table_is_read_in_the_new_workspace_as_it_was(scone, work, grown, tmp_path):
    """The arm of a further table has its own f-grams: the same loss as where it is the only one."""
    shutil.rmtree(work / "table")
    copy_of(grown / "before" / "table", work / "table")
    assert scone("--workspace", work, "eval", "--no-speed")[0] == 0
    alone = quality(work)["table", "nats_per_token"]["value"]
    both = copy_of(grown / "work", tmp_path / "both")
    assert scone("--workspace", both, "eval", "--no-speed", "--table", f"old={work / 'table'}")[0] == 0
    assert quality(both)["table:old", "nats_per_token"]["value"] == pytest.approx(alone, abs=1e-6)


def test_verify_and_serving_know_the_table(scone, work):
    code, out, _ = scone("--workspace", work, "verify")
    assert (code, out.count("ok ")) == (65, 6), out  # only the evaluation is of the table before
    with load_model(work) as model, load_model(work, live=True) as live:
        tokens = model.encode("hip gnome pig john")
        assert (model.table.matcher().match(np.array(tokens)) != NONE).any()
        torch.testing.assert_close(model.logits(tokens), live.logits(tokens), atol=1e-4, rtol=1e-4)


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_without_the_option_another_vocabulary_is_refused_with_the_command(scone, work):
    code, _, err = scone("--workspace", work, "precompute")
    assert code == 65
    error_of(err, "trained with vocabulary", hint=("train-fgram", f"precompute --vocab {work / 'vocab'}"))


def test_a_model_that_does_not_keep_its_fgrams_is_refused(scone, work):
    described = manifest(work / "model")
    described["files"].pop("learned-fgrams.parquet")
    (work / "model" / "learned-fgrams.parquet").unlink()
    write_manifest(work / "model", described)
    code, _, err = scone("--workspace", work, "precompute", "--vocab", work / "vocab")
    assert code == 65
    error_of(err, str(LEARNED), "learned-fgrams.parquet", hint=("train-fgram",))


def test_a_vocabulary_of_longer_fgrams_or_of_another_tokenizer_is_refused(scone, work, grown, tmp_path):
    given = ("--tokenizer", work / "tokens" / "tokenizer.json", "--held-out", "0.1")
    other = tmp_path / "other"
    assert scone("--workspace", other, "count-ngrams", grown / "corpus", *given, "--max-n", 6)[0] == 0
    assert scone("--workspace", other, "select-vocab", *SELECT)[0] == 0
    code, _, err = scone("--workspace", work, "precompute", "--vocab", other / "vocab")
    assert code == 65
    error_of(err, "up to 6 tokens", "4", hint=("--max-n",))
    assert scone("--workspace", other, "count-ngrams", grown / "corpus", "--vocab-size", 300)[0] == 0
    assert scone("--workspace", other, "select-vocab", *SELECT)[0] == 0
    code, _, err = scone("--workspace", work, "precompute", "--vocab", other / "vocab")
    assert code == 65
    error_of(err, "tokenizer", hint=("--tokenizer", str(work / "tokens" / "tokenizer.json")))


def test_another_rule_of_what_is_held_out_is_refused(scone, work, grown):
    given = ("--tokenizer", grown / "given" / "tokenizer.json", "--max-n", "4", "--held-out", "0.2")
    assert scone("--workspace", work, "count-ngrams", grown / "corpus", *given)[0] == 0
    assert scone("--workspace", work, "select-vocab", "--size", 1500)[0] == 0
    code, _, err = scone("--workspace", work, "eval", "--no-speed")
    assert code == 65
    error_of(err, "may hold out what it was trained on", hint=("--held-out",))
    code, _, err = scone("--workspace", work, "eval", "--no-speed", grown / "corpus" / "new-0.txt")
    assert code == 0, err
