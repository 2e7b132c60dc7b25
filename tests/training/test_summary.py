"""A trained model in numbers, against the model itself and against its log read step by step."""

import itertools
import json
import math

import pyarrow as pa
import pytest
from messages import refusal
from trained import BATCH, log_rows, publish_model

from scone_cli.artifacts.schemas import LOG
from scone_cli.errors import DamagedArtifact
from scone_cli.model.flops import fgram_pass_flops, forward_flops
from scone_cli.training.summary import (
    CURVE_POINTS,
    LAST_STEPS,
    MOST_LOOKS,
    parameters_by_part,
    read_config,
    read_tensors,
    training_record,
)

CUT_SHORT = b'{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'  # a header, and no data
OLD_LOG = pa.schema([field for field in LOG if field.name != "tokens_per_second"])
KINDS = {
    "scone": {"kind": "scone"},
    "plain": {"kind": "plain"},
    "hashed": {"kind": "hashed", "hashed_rows": 300},
    "untied": {"kind": "scone", "tied_head": False},
}


def sizes(*modules):
    weights = [weight for module in modules for weight in module.parameters()]
    return sum(weight.numel() for weight in weights), sum(weight.numel() * weight.element_size() for weight in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_those_of_the_model(tmp_path, kind):
    model = publish_model(tmp_path / "model", log_rows(4, 2, 0), **KINDS[kind])
    rows = {row["part"]: row for row in parameters_by_part(tmp_path / "model")}
    found = {part: (row["parameters"], row["bytes"]) for part, row in rows.items()}
    norms = [module for name, module in model.main.named_modules() if name.endswith("norm")]
    number, size = sizes(model.main.blocks)
    inside = sizes(*(norm for block in model.main.blocks for norm in (block.attention_norm, block.mlp_norm)))
    expected = {
        "token embeddings": sizes(model.main.token_embedding),
        "blocks": (number - inside[0], size - inside[1]),
        "norms": sizes(*norms),
    }
    expected |= {"head": sizes(model.main.head)} if kind == "untied" else {}
    expected |= {"A_f-gram": sizes(model.fgram)} if model.fgram else {}
    expected |= {"hashed rows": sizes(model.hashed)} if model.hashed else {}
    assert found == expected
    where = {part: row["where"] for part, row in rows.items()}
    assert where == dict.fromkeys(expected, "resident") | {
        part: place for part, place in [("A_f-gram", "training only"), ("hashed rows", "offloaded")] if part in expected
    }
    assert sum(row["parameters"] for row in rows.values()) == sizes(model)[0]


def test_cost_counts_the_nodes_of_the_log(tmp_path):
    model = publish_model(tmp_path / "model", log_rows(8, 2, 96))
    config = model.config
    found = training_record(tmp_path / "model", read_config(tmp_path / "model"))["cost"]
    main = forward_flops(config.dim, config.hidden, config.layers, 50, config.context)
    shape = (config.dim, config.hidden, config.fgram_layers)
    fgram = fgram_pass_flops(*shape, 1.5, 1.5 * 3 / 4, config.max_n)  # 96 nodes for 64 tokens
    assert found["inference_flops_a_token"] == main
    assert found["fgram_training_flops_a_token"] == 3 * fgram
    assert found["training_flops_a_token"] == 3 * (main + fgram)
    assert found["training_times_plain"] == pytest.approx(1 + fgram / main, abs=1e-4)
    assert found["training_flops"] == found["training_flops_a_token"] * 8 * BATCH


@pytest.mark.parametrize("steps", [1, 2, 99, 100, 101, 1234])
def test_the_curve_is_the_means_of_groups_of_steps(tmp_path, steps):
    rows = log_rows(steps, 1, 32)
    publish_model(tmp_path / "model", rows)
    record = training_record(tmp_path / "model", read_config(tmp_path / "model"))
    curve = record["curve"]
    assert len(curve) == min(steps, CURVE_POINTS)
    first, lengths = 0, set()
    for point in curve:
        group = rows[first : point["step"]]
        first, lengths = point["step"], lengths | {len(group)}
        for key in ("loss", "learning_rate"):
            assert point[key] == pytest.approx(sum(row[key] for row in group) / len(group), rel=1e-5)
        assert point["tokens"] == round(sum(row["tokens"] for row in group) / len(group))
        assert point["gradient_norm"] == max(row["gradient_norm"] for row in group)
        assert (point["trie_nodes_a_token"], point["tokens_a_second"]) == (0.5, BATCH)
    assert first == steps
    assert max(lengths) - min(lengths) <= 1
    looks = record["held_out"]
    assert len(looks) <= MOST_LOOKS
    assert looks[-1]["step"] == steps
    assert len({b["step"] - a["step"] for a, b in itertools.pairwise(looks)}) <= 1
    assert all(math.isclose(row["loss"], rows[row["step"] - 1]["held_out_loss"], rel_tol=1e-5) for row in looks)


def test_how_it_ended(tmp_path):
    rows = log_rows(120, 30, 32)
    publish_model(tmp_path / "model", rows)
    found = training_record(tmp_path / "model", read_config(tmp_path / "model"))["training"]
    assert (found["steps"], found["tokens"], found["seconds"]) == (120, 120 * BATCH, 124.0)
    assert found["tokens_a_second"] == BATCH  # the looks at the held-out loss took four seconds more
    assert found["training_loss"] == pytest.approx(
        sum(row["loss"] for row in rows[-LAST_STEPS:]) / LAST_STEPS, rel=1e-5
    )
    assert found["held_out_loss"] == pytest.approx(rows[119]["held_out_loss"], rel=1e-5)
    assert found["lowest_held_out_loss"] == pytest.approx(rows[89]["held_out_loss"], rel=1e-5)
    assert (found["peak_learning_rate"], found["largest_gradient_norm"]) == (0.003, 1.5)


def test_a_model_of_an_earlier_version_is_shown(tmp_path):
    """Its configuration did not name a kind, and its log no speed: then what the looks took cannot be told apart."""
    target = tmp_path / "model"
    publish_model(target, log_rows(120, 50, 32), OLD_LOG)
    for layers, kind in ((2, "scone"), (0, "plain")):
        config = json.loads((target / "config.json").read_bytes()) | {"fgram_layers": layers}
        old = {name: value for name, value in config.items() if name not in {"kind", "combine", "hashed_rows"}}
        (target / "config.json").write_text(json.dumps(old))
        found = read_config(target)
        assert (found["kind"], found["combine"], found["hashed_rows"]) == (kind, "replace", 0)
        assert training_record(target, found)["training"]["tokens_a_second"] == round(120 * BATCH / 122)


def test_no_held_out_text_is_no_trouble(tmp_path):
    publish_model(tmp_path / "model", log_rows(3, 1000, 0))
    record = training_record(tmp_path / "model", read_config(tmp_path / "model"))
    assert record["held_out"] == []
    assert record["training"]["held_out_loss"] is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "JSONDecodeError"),
        ("config.json", b"[1]", "TypeError"),
        ("config.json", b'{"fgram_layers": 2, "dim": 4}', "context, heads"),
        ("main.safetensors", b"\xff" * 64, "weights"),
        ("main.safetensors", (2).to_bytes(8, "little") + b"[]", "weights"),
        ("main.safetensors", (2).to_bytes(8, "little") + b"{}", "blocks.0.down.weight"),
        ("main.safetensors", len(CUT_SHORT).to_bytes(8, "little") + CUT_SHORT, "weights"),
        ("log.parquet", b"PAR1 but no more", "ArrowInvalid"),
    ],
)
def test_a_spoiled_file_is_named_with_what_is_wrong(tmp_path, name, content, said):
    publish_model(tmp_path / "model", log_rows(3, 1, 0))
    (tmp_path / "model" / name).write_bytes(content)
    with refusal(DamagedArtifact, str(tmp_path / "model" / name), said):
        training_record(tmp_path / "model", read_config(tmp_path / "model"))


def test_a_log_without_its_columns_or_its_rows_is_refused(tmp_path):
    for number, (rows, schema, said) in enumerate(
        [([], LOG, "step"), (log_rows(3, 1, 0), pa.schema([LOG.field("step"), LOG.field("loss")]), "tokens")]
    ):
        target = tmp_path / str(number)
        publish_model(target, rows, schema)
        with refusal(DamagedArtifact, str(target / "log.parquet"), said):
            training_record(target, read_config(target))


def test_headers_say_what_is_in_a_file(tmp_path):
    model = publish_model(tmp_path / "model", log_rows(1, 1, 0))
    found = read_tensors(tmp_path / "model" / "main.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.main.state_dict().items()
    }
