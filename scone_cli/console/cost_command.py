"""`scone cost`: what the models of a recipe cost, side by side, and whether their tables pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scone_cli.console import help_texts, output
from scone_cli.console.options import Session
from scone_cli.console.recipes import read_recipe
from scone_cli.console.results import drawn, sentence
from scone_cli.evaluation.break_even import Contender, Prices, contender
from scone_cli.evaluation.payback import payback
from scone_cli.formatting import big, bytes_text, count_text, dollars, power_text

if TYPE_CHECKING:
    from scone_cli.evaluation.model_cost import Shape, ShapeCost
    from scone_cli.evaluation.result_types import Payback

Row = Mapping[str, Any]
_GB = 1e9


class CostCommand(click.Command):
    """A command whose help also lists the keys of the recipe's tables."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then every key with its meaning and default."""
        from scone_cli.evaluation.model_cost import Shape  # heavy

        super().format_options(ctx, formatter)
        for title, config_class in (("[[cost.model]]", Shape), ("[prices]", Prices)):
            with formatter.section(f"Keys of {title}"):
                formatter.write_dl([_key(item) for item in fields(config_class)])


def _key(item: Field[Any]) -> tuple[str, str]:
    """A key and its help, with its choices and its default, if there are any."""
    told = [item.metadata["help"]]
    if choices := item.metadata["choices"]:
        told.append(f"One of {', '.join(choices)}.")
    if item.default is False or item.default not in (None, 0, ""):
        told.append(f" [default: {f'{item.default:g}' if isinstance(item.default, float) else item.default}]")
    return item.name.replace("_", "-"), " ".join(told)


@click.command(cls=CostCommand, help=help_texts.COST_ABOUT, short_help=help_texts.LOOKING["cost"])
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="RECIPE",
    help="TOML file with the models; --config may also be given before the command.",
)
@click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_obj
def cost(session: Session, /, config: Path | None, as_json: bool) -> None:
    """Compute what models cost."""
    recipe = read_recipe(config) if config else session.recipe
    if recipe is None:
        raise click.UsageError("no recipe: give --config RECIPE; run `scone recipe paper` to see one")
    from scone_cli.console.recipe_shapes import shapes_of  # heavy: not for `scone cost --help`
    from scone_cli.evaluation.model_cost import shape_cost

    prices = Prices(**recipe.tables.get("prices", {}))
    prices.check()
    shapes = shapes_of(recipe)
    costs = [shape_cost(shape) for shape in shapes]
    paybacks = _paybacks(shapes, costs, prices)
    if as_json:
        output.print_json({"models": costs, "prices": asdict(prices), "payback": paybacks})
    else:
        output.print_result(_text(shapes, costs, prices, paybacks))


def _paybacks(shapes: Sequence[Shape], costs: Sequence[ShapeCost], prices: Prices) -> list[Payback]:
    """Whether each table pays, for the models with a known perplexity and known training FLOPs."""
    contenders = [
        contender(row, math.log(shape.perplexity))
        for shape, row in zip(shapes, costs, strict=True)
        if shape.perplexity is not None and row["training_flops"] is not None
    ]

    def has_table(each: Contender) -> bool:
        return each.ram_bytes > 0

    rivals = [each for each in contenders if not has_table(each)]
    return [payback(each, rivals, prices) for each in contenders if has_table(each)]


# ---- for people --------------------------------------------------------------------------------------------------

Shown = tuple[str, Callable[[Row], str]]


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: count_text(row[key]) if row[key] else "-"


def _power(key: str) -> Callable[[Row], str]:
    return lambda row: power_text(row[key]) if row[key] else "-"


def _bytes(key: str) -> Callable[[Row], str]:
    return lambda row: bytes_text(row[key]) if row[key] else "-"


def _dollars(key: str, a_gb: float) -> Callable[[Row], str]:
    return lambda row: dollars(row[key] / _GB * a_gb) if row[key] else "-"


def _sections(prices: Prices) -> dict[str, list[Shown]]:
    """The sections of the table: for each its lines, with the function that writes a model's cost."""
    return {
        "Resident, on the accelerator": [
            ("parameters", _count("resident_parameters")),
            ("their bytes", _bytes("resident_bytes")),
            ("keys and values per token", _bytes("kv_bytes_a_token")),
            ("… of a full context", _bytes("kv_bytes_a_sequence")),
        ],
        "FLOPs per token served": [
            ("reading the prompt", _count("prefill_flops")),
            ("writing, full context", _count("decode_flops")),
        ],
        "Table, off the accelerator": [
            ("rows", _count("offloaded_rows")),
            ("in RAM: rows and index", _bytes("offloaded_bytes_ram")),
            ("… with the paper's dictionary", _bytes("dictionary_bytes_ram")),
            ("on SSD: our files", _bytes("offloaded_bytes_disk")),
            ("… in LMDB, as the paper", _bytes("lmdb_bytes_disk")),
            (f"RAM at ${prices.ram_gb:g} per GB", _dollars("offloaded_bytes_ram", prices.ram_gb)),
            (f"SSD at ${prices.ssd_gb:g} per GB", _dollars("offloaded_bytes_disk", prices.ssd_gb)),
        ],
        "Training FLOPs per sequence": [
            ("without f-grams", _power("training_flops_a_sequence_plain")),
            ("with, padded as in the paper", _power("training_flops_a_sequence_padded")),
            ("with, over the trie", _power("training_flops_a_sequence_trie")),
        ],
        "Training FLOPs, once": [
            ("filling the table", _power("precompute_flops")),
            ("training, and filling the table", _power("training_flops")),
        ],
    }


def _text(shapes: Sequence[Shape], costs: Sequence[Row], prices: Prices, paybacks: Sequence[Row]) -> str:
    def show(screen: Console) -> None:
        for table in _tables(costs, prices, screen.width):
            screen.print(table)
            screen.print()
        for note in _notes(shapes):
            sentence(screen, note)
        if paybacks:
            screen.print(Text("\nDoes the table pay?", style="bold"))
        for found in paybacks:
            screen.print()
            screen.print(Text(found["scone"], style="bold"))
            sentence(screen, found["verdict"], style="")
        if paybacks:
            screen.print()
            sentence(screen, _priced(prices))

    return drawn(show)


_LABEL = 31
_NARROWEST, _WIDEST = 10, 14


def _tables(costs: Sequence[Row], prices: Prices, width: int) -> list[Table]:
    """All models side by side; in several tables below one another if the terminal is too narrow."""
    fit = max(1, (width - _LABEL) // _NARROWEST)
    return [_table(costs[first : first + fit], prices) for first in range(0, len(costs), fit)]


def _table(costs: Sequence[Row], prices: Prices) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True, min_width=_LABEL - 2)
    for row in costs:
        table.add_column(row["model"], justify="right", overflow="fold", max_width=_WIDEST)
    sections = {
        title: [(label, cells) for label, write in lines if set(cells := [write(row) for row in costs]) != {"-"}]
        for title, lines in _sections(prices).items()
    }
    for number, (title, lines) in enumerate(sections.items()):
        if not lines:
            continue
        if number:
            table.add_row()
        table.add_row(Text(title, style="bold cyan"))
        for label, cells in lines:
            table.add_row(Text(f"  {label}", style="dim"), *cells)
    return table


def _notes(shapes: Sequence[Shape]) -> list[str]:
    """Notes that explain the table."""
    weights = ", ".join(dict.fromkeys(shape.weights for shape in shapes))
    notes = [f"Weights, keys and values are {weights}. Attention is counted over the whole context."]
    with_fgrams = [shape for shape in shapes if shape.num_fgrams]
    if with_fgrams:
        rows = ", ".join(dict.fromkeys(shape.dtype for shape in with_fgrams))
        notes.append(
            f"Rows are {rows}. Padded: every match is computed separately, as K tokens. Over the trie: the f-grams of a batch "
            "share their prefixes; the result is the same."
        )
    if any(shape.trie_nodes is None for shape in with_fgrams):
        notes.append(
            "Without trie-nodes the cost over the trie is not known; scone inspect shows them for a trained model."
        )
    return notes


def _priced(prices: Prices) -> str:
    """The assumed prices and loads in a sentence."""
    memory = "RAM" if prices.table_on == "ram" else "SSD"
    bought, rented = (prices.ram_gb, prices.ram_gb_month) if memory == "RAM" else (prices.ssd_gb, prices.ssd_gb_month)
    paid = f"${bought:g} per GB, written off in {prices.depreciation_years:g} years"
    if rented is not None:
        paid = f"${rented:g} per GB and month"
    return (
        f"Assumed: {big(prices.load)} tokens per day; ${prices.accelerator_hour:g} per hour for an accelerator of "
        f"{prices.accelerator_flops / 1e12:,.0f} TFLOP/s, of which training reaches {100 * prices.training_utilisation:g}% and "
        f"inference {100 * prices.inference_utilisation:g}%; the table on {memory} at {paid}, in {prices.copies:g} "
        f"{'copy' if prices.copies == 1 else 'copies'}. To change this, set [prices] in the recipe."
    )
