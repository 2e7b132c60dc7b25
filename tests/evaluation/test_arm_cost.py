"""What arms cost, from what was opened; whether the table pays, against the plain rivals alone."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from builders import make_table, random_documents, slow_ranking, tiny_model, trie_of
from trained import log_rows, publish_model

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.evaluation.arm_cost import MeasuredArm, cost_rows, costs_of, payback_of
from scone_cli.evaluation.arms import Opened
from scone_cli.evaluation.break_even import Prices
from scone_cli.evaluation.model_cost import Shape, live_flops
from scone_cli.evaluation.run_arms import Arm
from scone_cli.model.flops import fgram_forward_flops, forward_flops
from scone_cli.table.row_formats import row_bytes
from scone_cli.table.table import Table
from scone_cli.training.summary import read_config, training_record

TRIE = trie_of(slow_ranking(random_documents(0, 7, [300]), 4, 60, 1), 50, 4)


@pytest.fixture
def found(tmp_path):
    """A workspace with a model and a table, and a rival without a log."""
    publish_model(tmp_path / "model", log_rows(20, 5, 10))
    publish_model(tmp_path / "rival", log_rows(10, 5, 0), kind="plain")
    make_table(tmp_path, TRIE, tiny_model(50).rows(TRIE, np.arange(60)).detach())
    rival = read_manifest(tmp_path / "rival")
    rival.files.pop("log.parquet")
    artifacts = {name: read_manifest(tmp_path / name) for name in ("model", "table")}
    return Opened(tmp_path, artifacts, {"rival": (tmp_path / "rival", rival)})


def test_a_row_for_every_arm(found):
    model, plain = tiny_model(50), tiny_model(50, kind="plain")
    table = Table.open(found.workspace / "table")
    arms = [
        *(Arm("rival", plain), Arm("live", model, trie=TRIE)),
        *(Arm("table", model, table=table), Arm("none", model)),
    ]
    shares = {arm.name: np.array([0.5, 0, 0.25, 0.25, 0]) for arm in arms}
    rows = {row["arm"]: row for row in costs_of(arms, found, shares)}
    files = [path for path in (found.workspace / "table").iterdir() if path.name.startswith(("rows-", "index."))]
    assert rows["table"]["offloaded_bytes_disk"] == sum(path.stat().st_size for path in files)
    assert rows["table"]["offloaded_bytes_ram"] == 60 * 16 * 4 + table.index.nbytes
    assert rows["table"]["index_bytes"] == table.index.nbytes
    assert rows["live"]["decode_flops"] > rows["table"]["decode_flops"] == rows["none"]["decode_flops"]
    assert rows["live"]["offloaded_rows"] == rows["none"]["offloaded_rows"] == 0
    trained = training_record(found.workspace / "model", read_config(found.workspace / "model"))
    assert rows["live"]["training_flops"] == trained["cost"]["training_flops"] < rows["table"]["training_flops"]
    assert rows["rival"]["training_flops"] is None  # there is no log of it


def results(**losses: float) -> dict:
    cost = {"resident_parameters": 10, "offloaded_bytes_ram": 0, "offloaded_bytes_disk": 0}
    flops = {"table": (10.0, 300.0), "plain": (10.0, 100.0), "large": (40.0, 400.0), "hashed": (10.0, 100.0)}
    facts = {"documents": 10, "in_training_split": 0}
    return {
        "method": {"corpora": [{"corpus": "wiki", **facts}, {"corpus": "law", **facts}]},
        "results": [
            {"arm": arm, "corpus": corpus, "metric": "nats_per_token", "value": value + (corpus == "law")}
            for arm, value in losses.items()
            for corpus in ("law", "wiki")
        ],
        "cost": [
            {"arm": arm, **cost, "decode_flops": flops[arm][0], "training_flops": flops[arm][1]} for arm in losses
        ],
    }


def test_payback_is_against_plain_rivals_on_the_first_corpus():
    found = payback_of(results(table=3.0, plain=4.0, large=2.5, hashed=2.0), ["plain", "large"], Prices())
    assert found["baseline"]["nats_per_token"] == pytest.approx(3.0)
    assert 10 < found["baseline"]["inference_flops"] < 40
    assert found["prices"] == asdict(Prices())


def test_payback_is_not_on_text_that_the_models_have_learned():
    """As the verdict: `wiki` is training text, so `law` counts."""
    found = results(table=3.0, plain=4.0, large=2.5)
    found["method"]["corpora"][0]["in_training_split"] = 10
    assert payback_of(found, ["plain", "large"], Prices())["baseline"]["nats_per_token"] == pytest.approx(4.0)


def test_without_a_plain_rival_nothing_pays():
    assert payback_of(results(table=3.0, hashed=2.0), [], Prices()) is None
    unknown = results(table=3.0, plain=4.0)
    unknown["cost"][1]["training_flops"] = None
    assert payback_of(unknown, ["plain"], Prices()) is None


def test_which_model_and_table_an_arm_has(found):
    opened = Opened(found.workspace, found.artifacts, found.rivals, {"int8": (Path("x"), found.artifacts["table"])})
    assert opened.model_of("rival")[0] == found.workspace / "rival"
    assert opened.model_of("table:int8")[0] == opened.model_of("live")[0] == found.workspace / "model"
    assert opened.table_of("table")[0] == found.workspace / "table"
    assert opened.table_of("table:int8")[0] == Path("x")
    assert opened.table_of("live") is opened.table_of("rival") is opened.table_of("none") is None
    assert opened.names() == ["rival", "live", "table", "table:int8", "none"]


# ---- The arms of an evaluation: what they are said to cost is what models and tables of that kind have ---------------


FGRAMS = slow_ranking([[0, 1, 2, 3, 1, 2, 0, 3] * 3], 4, 20, 1)
INDEX = trie_of(FGRAMS, 50, 4).index()


def model_of(**changes):
    return tiny_model(50, 4, dim=24, layers=3, heads=2, context=16, **changes)


def numbers(*parts) -> int:
    return sum(weight.numel() for part in parts for weight in part.parameters())


def test_a_table_is_off_the_accelerator_and_costs_no_operation():
    model = model_of(fgram_layers=2)
    config, width = asdict(model.config), row_bytes("int8", 24)
    table = MeasuredArm("table", config, "table", 20, width, INDEX.nbytes, 1234, training_flops=5.0)
    with_table, without = cost_rows([table, MeasuredArm("none", config)])
    assert with_table == {
        "arm": "table",
        "resident_parameters": numbers(model.main),
        "resident_bytes": 4 * numbers(model.main),
        "offloaded_rows": 20,
        "offloaded_bytes_ram": 20 * (24 + 4) + INDEX.nbytes,
        "offloaded_bytes_disk": 1234,
        "index_bytes": INDEX.nbytes,
        "prefill_flops": round(forward_flops(24, 64, 3, 0, 16) + 2 * 24 * 50 / 16),
        "decode_flops": forward_flops(24, 64, 3, 50, 16),
        "kv_bytes_a_token": 2 * 3 * 24 * 4,
        "training_flops": 5.0 + round(20 * fgram_forward_flops(24, 64, 2, config["max_n"])),  # and to fill it
    }
    same = ("resident_parameters", "resident_bytes", "prefill_flops", "decode_flops", "kv_bytes_a_token")
    assert {key: without[key] for key in same} == {key: with_table[key] for key in same}
    assert {without[key] for key in without if "offloaded" in key} == {0}


def test_live_keeps_the_fgram_model_resident_and_runs_it():
    model = model_of(fgram_layers=2, learned_rows=7)
    shares = [0.25, 0, 0.5, 0.25]
    arm = MeasuredArm("live", asdict(model.config), "live", index_bytes=INDEX.nbytes, match_shares=shares)
    (found,) = cost_rows([arm])
    shape = Shape(name="s", dim=24, layers=3, vocab_size=50, context=16, fgram_layers=2, max_n=model.config.max_n)
    assert found["resident_parameters"] == numbers(model.main, model.fgram)
    assert found["decode_flops"] == round(forward_flops(24, 64, 3, 50, 16) + live_flops(shape, shares))
    assert found["offloaded_rows"] == 7
    assert found["offloaded_bytes_ram"] == found["offloaded_bytes_disk"] == model.learned.weight.nbytes + INDEX.nbytes


@pytest.mark.parametrize("num_rows", [400, 1000])
def test_hashed_rows_are_off_the_accelerator(num_rows):
    model = model_of(kind="hashed", fgram_layers=0, hashed_rows=num_rows, combine="add")
    (found,) = cost_rows([MeasuredArm("hashed", asdict(model.config))])
    assert found["offloaded_rows"] == len(model.hashed.weight)
    assert found["offloaded_bytes_ram"] == found["offloaded_bytes_disk"] == model.hashed.weight.nbytes
    assert found["resident_parameters"] == numbers(model.main)


def test_json_takes_the_rows():
    (found,) = cost_rows([MeasuredArm("plain", asdict(model_of(kind="plain", fgram_layers=0).config))])
    assert not any(isinstance(value, np.generic) for value in found.values())
    assert found["training_flops"] is None
