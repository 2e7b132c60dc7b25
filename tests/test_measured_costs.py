"""The arms of an evaluation: what they are said to cost is what models and tables of that kind have."""

from dataclasses import asdict

import numpy as np
import pytest
from builders import slow_ranking, tiny_model, trie_of

from scone_cli.evaluation.arm_cost import MeasuredArm, cost_rows
from scone_cli.evaluation.model_cost import Shape, live_flops
from scone_cli.model.flops import fgram_forward_flops, forward_flops
from scone_cli.table.row_formats import row_bytes

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
    assert found["offloaded_bytes_ram"] == model.learned.weight.nbytes + INDEX.nbytes


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
