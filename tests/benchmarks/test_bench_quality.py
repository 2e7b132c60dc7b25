"""The harness of the headline: it trains what is missing, continues, leaves out what does not belong, and reports."""

import ast
import importlib
import json
import os
import re
import signal
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from messages import error_of, names
from workspaces import write_small_corpus

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # after tests/: it has a `processes` too

import bench_quality  # noqa: E402
import quality_arms  # noqa: E402
import quality_picture  # noqa: E402
import quality_rates  # noqa: E402
import quality_report  # noqa: E402
import quality_runs  # noqa: E402

from scone_cli.artifacts.publish import workspace_lock  # noqa: E402
from scone_cli.errors import StorageFailure  # noqa: E402
from scone_cli.runtime.signals import Stopped, noting_stops  # noqa: E402

pytestmark = pytest.mark.slow  # they start processes that import torch, or compile kernels

HEADLINE = ROOT / "pipelines" / "headline.toml"
RECIPE = """
[count-ngrams]
vocab-size = 400
held-out = 0.1
max-n = 3
[select-vocab]
size = 2000
[train-fgram]
dim = 16
layers = 1
heads = 1
fgram-layers = 1
context = 32
batch = 4
eval-tokens = 500
warmup = 1
"""
STEPS = ("--tokens", "256")  # two of them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus of two domains and a recipe."""
    folder = tmp_path_factory.mktemp("quality")
    write_small_corpus(folder / "all")
    for number, path in enumerate(sorted((folder / "all").iterdir())):
        domain = folder / "corpus" / "ab"[number % 2]
        domain.mkdir(parents=True, exist_ok=True)
        path.rename(domain / path.name)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def bench(folder, *args):
    given = ("--workspace", folder / "work", "--recipe", folder / "recipe.toml", "--out", folder / "out", *args)
    return bench_quality.main([str(each) for each in given])


def results(folder):
    return json.loads((folder / "out" / "results.json").read_text())


def trained_at(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "work" / "arms").glob("*/*/model/manifest.json")}


def test_a_run_that_is_stopped_continues_and_ends_in_a_report(folder, monkeypatch, capsys):
    arms = ("--arms", "plain-1x,scone-1x-10k,hashed-1x")
    run_arm = quality_runs.run_arm

    def stop_at_scone(arm, *args):
        if arm.trie:
            raise Stopped(signal.SIGTERM)
        return run_arm(arm, *args)

    monkeypatch.setattr(quality_runs, "run_arm", stop_at_scone)
    assert bench(folder, folder / "corpus", *arms, *STEPS) == 143
    assert [arm["arm"] for arm in results(folder)["arms"]] == ["plain-1x", "hashed-1x"]
    before = trained_at(folder)
    assert len(before) == 3

    monkeypatch.setattr(quality_runs, "run_arm", run_arm)
    capsys.readouterr()
    assert bench(folder, *arms, *STEPS) == 0  # the corpus is not needed any more
    assert before.items() <= trained_at(folder).items()
    found = results(folder)
    assert [arm["arm"] for arm in found["arms"]] == ["plain-1x", "hashed-1x", "scone-1x-10k"]
    assert {claim["status"] for claim in found["claims"]} == {quality_report.OPEN}
    plain, hashed, scone = found["arms"]
    assert all(set(arm["bits_per_byte"]) == {"all", "a", "b"} for arm in found["arms"])
    assert plain["resident_parameters"] == scone["resident_parameters"] == hashed["resident_parameters"]
    assert plain["offloaded_rows"] == 0
    assert 0 < hashed["offloaded_rows"] <= scone["offloaded_rows"]
    assert hashed["offloaded_bytes"] == hashed["offloaded_rows"] * 16 * 2
    assert plain["training_flops"] == 3 * plain["inference_flops_a_token"] * 256
    assert scone["training_flops"] > plain["training_flops"]
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["bits_per_byte"]["plain-1x"] == plain["bits_per_byte"]["all"]["value"]


def test_the_losses_are_those_of_the_trainer(folder):
    """Untrained, nearly: every arm is about as good as guessing one of 400 tokens."""
    found = results(folder)
    tokens_a_byte = found["held_out"]["tokens"] / found["held_out"]["bytes"]
    for arm in found["arms"]:
        assert arm["bits_per_byte"]["all"]["value"] == pytest.approx(np.log2(400) * tokens_a_byte, rel=0.1)


def test_the_report_shows_nothing_of_this_machine_and_the_picture_every_arm(folder):
    texts = {path.name: path.read_text() for path in (folder / "out").iterdir()}
    assert set(texts) == {"results.json", "results.md", "quality.svg"}
    assert not any(str(part) in text for text in texts.values() for part in (folder, ROOT))
    ET.fromstring(texts["quality.svg"])
    assert all(arm["label"] in texts["quality.svg"] for arm in results(folder)["arms"])
    for table in texts["results.md"].split("\n\n")[1::2]:
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_what_was_trained_otherwise_is_left_out(folder, capsys):
    assert bench(folder, "--report-only", *STEPS) == 0
    capsys.readouterr()
    assert bench(folder, "--report-only", "--tokens", "512") == 1
    said = capsys.readouterr().err
    told = [line for line in said.splitlines() if re.search(r"\bsteps\D* 2\b.*\b4\b", line)]
    assert len(told) == len(trained_at(folder)) == 7


def test_a_run_that_another_process_is_at_is_passed_over(folder, capsys):
    with workspace_lock(folder / "work" / "arms" / "plain-1.9x" / "seed-0"):
        assert bench(folder, "--arms", "plain-1.9x", *STEPS) == 0
    assert names(capsys.readouterr().err, "plain-1.9x", "process")
    assert not (folder / "work" / "arms" / "plain-1.9x" / "seed-0" / "model").exists()


def test_bad_use_is_said(folder, tmp_path, capsys):
    assert bench(folder, "--arms", "plain-3x") == 2
    error_of(capsys.readouterr().err, "--arms plain-3x")
    for given in ("plain-3x=0.1", "plain-1x=fast", "plain-1x"):
        assert bench(folder, "--rate", given) == 2
        error_of(capsys.readouterr().err, "--rate", given.partition("=")[0])
    assert bench_quality.main(["--workspace", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 66
    error_of(capsys.readouterr().err, str(tmp_path / "none"))
    assert bench_quality.main(["--workspace", str(tmp_path / "none"), "--report-only"]) == 66
    error_of(capsys.readouterr().err, str(tmp_path / "none"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tokens", ["inf", "nan", "-5", "0", "some", "1e30"])
def test_a_number_of_tokens_that_is_none(folder, capsys, tokens):
    assert bench(folder, "--report-only", f"--tokens={tokens}") == 2
    error_of(capsys.readouterr().err, f"--tokens {tokens}", "1")


def test_a_run_that_cannot_be_saved_when_it_is_stopped_is_the_last(folder, monkeypatch, capsys):
    begun = []

    def stopped_without_room(run, _work):
        begun.append(run.title)
        with noting_stops():
            os.kill(os.getpid(), signal.SIGTERM)
            raise StorageFailure("no space left")

    monkeypatch.setattr(bench_quality, "carry_out", stopped_without_room)
    assert bench(folder, folder / "corpus", "--arms", "plain-1x,scone-1x-10k", *STEPS) == 143
    assert begun == ["plain-1x, seed 0"]
    said = capsys.readouterr().err
    assert "error: plain-1x, seed 0: no space left" in said
    assert names(said.splitlines()[-1], "error: ", "SIGTERM", "same command")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_of_the_package_is_there(path):
    """Rivals may not be installed, so benchmarks are not run: each name is looked up."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scone_cli"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


# ---- the arms ----------------------------------------------------------------------------------------------------


def test_arms_differ_in_kind_shape_and_learning_rate_alone():
    experiment = quality_arms.Experiment.read(HEADLINE)
    shared = [
        {name: value for name, value in asdict(run.config).items() if name not in bench_quality.OF_THE_ARM}
        for run in experiment.runs(quality_arms.ARMS)
    ]
    assert all(each == shared[0] for each in shared)


def test_the_long_headline_shares_everything_but_its_length():
    short, long = (
        quality_arms.Experiment.read(HEADLINE.with_name(f"{name}.toml")) for name in ("headline", "headline-long")
    )
    assert (short.count, short.select) == (long.count, long.select)
    length = {"steps", "warmup", "eval_every", "eval_tokens"}
    assert {name for name, value in asdict(short.train).items() if asdict(long.train)[name] != value} == length
    assert long.train.steps * long.train.batch * long.train.context == pytest.approx(40e6, rel=0.01)


def test_rates_stand_around_the_headlines_and_runs_have_a_quarter_of_the_length():
    long = quality_arms.Experiment.read(HEADLINE.with_name("headline-long.toml"), list(quality_rates.CENTRES))
    runs = [run for factor in quality_rates.FACTORS for run in quality_rates.runs_at(long, factor)]
    rates = [run.config.learning_rate for run in runs if run.arm.name.startswith("plain-4x")]
    assert sorted(rates) == [0.0125, 0.01768, 0.025, 0.03536, 0.05]
    assert {run.config.steps for run in runs} == {610}
    assert len({run.arm.name for run in runs}) == 10


def test_held_out_documents_are_halved_by_their_names():
    names = [f"law/part.jsonl.zst:{number}" for number in range(1000)]
    halves = [quality_runs.half_of(name) for name in names]
    assert 450 < halves.count(quality_runs.DEV) < 550
    assert halves == [quality_runs.half_of(name) for name in names]


def test_plain_arms_have_about_the_sizes_in_their_names():
    experiment = quality_arms.Experiment.read(HEADLINE)
    plain = [arm for arm in quality_arms.ARMS if arm.name.startswith("plain-")]
    sizes = [quality_arms.non_embedding_parameters(experiment.run(arm, 0).config) for arm in plain]
    for arm, size in zip(plain, sizes, strict=True):
        assert size / sizes[0] == pytest.approx(float(re.search(r"-([\d.]+)x", arm.name)[1]), rel=0.06)


def test_first_seeds_come_first():
    experiment = quality_arms.Experiment.read(HEADLINE)
    order = [(run.arm.name, run.seed) for run in experiment.runs(experiment.arms)]
    assert [seed for _, seed in order] == [0] * len(experiment.arms) + [1] * 6 + [2] * 6
    assert order[:2] == [("plain-1x", 0), ("scone-1x", 0)]
    assert {name for name, seed in order if seed} == {
        "scone-1x",
        "hashed-1x",
        *(f"plain-{size}x" for size in ("1", "1.9", "2.5", "4")),
    }
    assert "plain-8x" not in dict(order)


# ---- the claims --------------------------------------------------------------------------------------------------

SIZES = {"plain-1x": 100.0, "scone-1x": 100.0, "plain-4x": 400.0, "plain-1.9x": 190.0}


def outcomes(**bits):
    """Arms of given bits per byte: by seed, then by document; of ten bytes each, the last document of another domain."""
    experiment = quality_arms.Experiment.read(HEADLINE)
    found = []
    for name, seeds in bits.items():
        arm = next(arm for arm in quality_arms.ARMS if arm.name == name.replace("_", "-").replace("19", "1.9"))
        facts = {"resident_non_embedding_parameters": SIZES[arm.name], "training_flops": SIZES[arm.name]}
        for seed, documents in enumerate(seeds):
            size = np.full(len(documents), 10.0)
            domains = np.array(["a"] * (len(documents) - 1) + ["b"])
            nats = np.array(documents) * 10 * np.log(2)
            found.append(quality_runs.Finding(experiment.run(arm, seed), facts, domains, size, size, nats))
    return quality_report.outcomes_of(found)


def status_of(found, text):
    (verdict,) = [each for each in quality_report.verdicts(found) if text in each["claim"]]
    return verdict["status"]


def test_a_difference_is_paired_over_documents_and_of_means_over_seeds():
    found = outcomes(plain_4x=[[2.0, 4.0, 6.0], [2.2, 4.2, 6.2]], scone_1x=[[1.9, 3.8, 5.7], [1.9, 3.8, 5.7]])
    (part,) = quality_report.judge(quality_report.CLAIMS[3], found)["differences"]
    assert part["difference"] == pytest.approx(-0.3)
    # Documents differ by -0.2, -0.3, -0.4: of equal sizes, so this is the error of a mean of three.
    assert part["stderr"] == pytest.approx(np.std([0.2, 0.3, 0.4], ddof=1) / np.sqrt(3))
    assert part["by_seed"] == pytest.approx([-0.2, -0.4])
    # Seeds vary by 0.2 and by nothing, so by a variance of 0.01 on average; each arm is the mean of two.
    assert part["seed_error"] == pytest.approx(0.1)
    assert status_of(found, "better than plain 4x") == quality_report.REACHED


def test_claims_can_fail():
    better_at_all_but_in_b = outcomes(plain_1x=[[2.0, 2.0, 2.0]], plain_19x=[[1.5, 1.5, 2.1]])
    pairs = (("plain-1.9x", "plain-1x"),)
    everywhere = quality_report.Claim("everywhere", pairs, by_domain=True)
    assert quality_report.judge(everywhere, better_at_all_but_in_b)["status"] == quality_report.MISSED
    assert status_of(better_at_all_but_in_b, "by 0.02 bits") == quality_report.REACHED
    assert status_of(outcomes(plain_1x=[[2.0, 2.0]], plain_19x=[[1.99, 1.99]]), "by 0.02") == quality_report.MISSED
    worse = outcomes(plain_4x=[[2.0, 2.0]], scone_1x=[[2.1, 2.0]], plain_1x=[[2.0, 2.0]])
    assert status_of(worse, "better than plain 4x") == quality_report.MISSED
    assert status_of(worse, "FLOPs") == quality_report.REACHED
    assert status_of(worse, "ordered by size") == quality_report.OPEN


def test_a_claim_is_clear_beyond_two_errors():
    seeds = [[1.9, 2.0, 2.1], [1.8, 1.9, 2.0]]
    for lead, clear in ((0.1, False), (0.2, True)):  # the error over seeds is 0.05 * sqrt(2)
        rivals = [[value + lead for value in documents] for documents in seeds]
        verdict = quality_report.judge(quality_report.CLAIMS[3], outcomes(scone_1x=seeds, plain_4x=rivals))
        assert (verdict["status"], verdict["clear"]) == (quality_report.REACHED, clear)
        verdict = quality_report.judge(quality_report.CLAIMS[3], outcomes(scone_1x=rivals, plain_4x=seeds))
        assert (verdict["status"], verdict["clear"]) == (quality_report.MISSED, clear)


def test_names_of_points_stand_apart_and_inside_the_picture():
    places = quality_picture._apart([100.0, 101.0, 102.0, 395.0, 396.0], 50, 400)
    assert all(b - a >= quality_picture._LINE for a, b in pairwise(places))
    assert places[0] >= 50
    assert places[-1] <= 400
