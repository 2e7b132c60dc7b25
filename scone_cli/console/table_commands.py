"""`scone lookup` and `scone generate`: the commands that read a table."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from scone_cli.console import help_texts, output
from scone_cli.console.options import PlainPath, Session, setting_options
from scone_cli.console.progress_bars import listening
from scone_cli.console.results import result_text
from scone_cli.errors import BadData, BadSetting
from scone_cli.formatting import count_text, seconds_text
from scone_cli.runtime.resources import storage_failures
from scone_cli.runtime.signals import Stopped
from scone_cli.serving.generate import Sampling, Speaker, Spelling, generate, open_speaker
from scone_cli.settings import DEVICES

PATH = PlainPath()
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline: a terminal would obey them


# ---- lookup ------------------------------------------------------------------------------------------------------


@click.command(help=help_texts.LOOKUP_ABOUT, short_help=help_texts.LOOKING["lookup"])
@click.argument("text")
@click.option(
    "--nearest",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    help="Number of nearest f-grams to show.",
)
@click.option(
    "--table", type=PATH, metavar="DIR", help="The table, or a REGISTRY/NAME.  [default: table in the workspace]"
)
@click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_obj
def lookup(session: Session, /, text: str, nearest: int, table: Path | None, as_json: bool) -> None:
    """Show the rows of the table for a text."""
    folder = table or session.workspace / "table"
    text = given_text("TEXT", text)
    from scone_cli.serving.lookup import look_up  # heavy: not for `scone lookup --help`

    in_a_log = session.quiet or not output.is_terminal(sys.stderr)  # a few seconds: only a person may wonder
    with storage_failures(folder), listening(in_a_log, session.verbose) as progress:
        found = look_up(folder, text, nearest, progress)
    if as_json:
        output.print_json(found)
    else:
        output.print_result(_lookup_text(found))


def _lookup_text(found: dict[str, Any]) -> str:
    """The result for people: a row per token, with its nearest f-grams in one cell."""
    rows = [
        {
            "token": entry["text"],
            "f-gram": entry["fgram"] or "-",
            "count": entry["count"],
            "norm": entry["norm"],
            "nearest f-grams, cosine": "\n".join(f"{each['cosine']:.3f} {each['fgram']}" for each in entry["nearest"]),
        }
        for entry in found["tokens"]
    ]
    matched = f"{found['matched']} of {len(rows)}"
    facts = {"rows": found["rows"], "dtype": found["dtype"], "tokens that end an f-gram": matched}
    return result_text(found["table"], {**facts, "tokens": rows})


# ---- generate ----------------------------------------------------------------------------------------------------


@click.pass_obj
def _generate(
    session: Session,
    /,
    prompt: str,
    max_tokens: int,
    model: Path | None,
    table: Path | None,
    live: bool,
    device: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Continue a text."""
    if live and table:
        raise click.UsageError("--live and --table cannot be given together")
    sampling = Sampling(**{item.name: values[item.name] for item in dataclasses.fields(Sampling)})
    sampling.check()
    text = given_text("--prompt", prompt)
    with storage_failures(session.workspace):
        speaker = open_speaker(session.workspace, model, table, live, device)
        result = _speak(speaker, text, sampling, max_tokens, aloud=not as_json)
    if as_json:
        output.print_json(result)
    elif not session.quiet:
        output.say(_summary(result))


def generate_command() -> click.Command:
    """The command `generate`, with an option for every setting of the sampling."""
    params: list[click.Parameter] = [
        click.Option(["--prompt"], required=True, metavar="TEXT", help="The text to continue; `-` is standard input."),
        click.Option(
            ["--max-tokens"],
            type=click.IntRange(min=1),
            default=200,
            show_default=True,
            help="Largest number of tokens to generate.",
        ),
        *setting_options(Sampling),
        click.Option(
            ["--model"],
            type=PATH,
            metavar="DIR",
            help="The model, ours or one of Hugging Face.  [default: model in the workspace]",
        ),
        click.Option(
            ["--table"],
            type=PATH,
            metavar="DIR",
            help="Its table, or a REGISTRY/NAME.  [default: table in the workspace]",
        ),
        click.Option(["--live"], is_flag=True, help="Run the f-gram model instead of reading the table."),
        click.Option(
            ["--device"],
            type=click.Choice(DEVICES),
            default="auto",
            show_default=True,
            help="Device of the model: `auto` is a CUDA GPU if there is one, else the CPU.",
        ),
        click.Option(["as_json", "--json"], is_flag=True, help="Print text and times as one JSON object, at the end."),
    ]
    short = help_texts.LOOKING["generate"]
    return click.Command(
        "generate", params=params, help=help_texts.GENERATE_ABOUT, short_help=short, callback=_generate
    )


def given_text(name: str, given: str) -> str:
    """The text of the argument `name`; `-` is standard input, without the newline at its end.

    Raises:
        BadSetting: it is empty.
        BadData: it is not UTF-8.
    """
    try:
        if given == "-":
            given = sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
        given.encode()  # bytes of an argument that are not UTF-8 are surrogates, which cannot be encoded
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadData(f"{name}: not UTF-8 ({error.reason})", "give text in UTF-8") from error
    if not given:
        raise BadSetting(f"{name}: empty, expected some text", "give a text, or - and the text on standard input")
    return given


def _speak(speaker: Speaker, text: str, sampling: Sampling, max_tokens: int, aloud: bool) -> dict[str, Any]:
    """Generate, and print the text at once if `aloud`; return the text, its tokens and the times.

    Raises:
        click.exceptions.Exit: a signal ended it.
    """
    prompt = speaker.tokenizer.encode_batch([text])[0].tolist()
    spelling, pieces, tokens = Spelling(speaker.tokenizer, prompt), list[str](), list[int]()
    times = [time.perf_counter()]

    def tell(piece: str) -> None:
        pieces.append(piece)
        if aloud and piece:
            output.write_result(_harmless(piece))

    try:
        for token in generate(speaker.model, speaker.embed, prompt, sampling, max_tokens, speaker.end):
            times.append(time.perf_counter())
            tokens.append(token)
            if token != speaker.end:
                tell(spelling(token))
        tell(spelling.rest() + "\n")
    except Stopped as stop:
        if aloud:
            output.write_result("\n")
        raise click.exceptions.Exit(stop.exit_code) from stop
    decoding = times[-1] - times[1]
    ended_by = "max tokens" if len(tokens) == max_tokens else "context"
    return {
        "prompt": text,
        "text": "".join(pieces)[:-1],
        "prompt_tokens": len(prompt),
        "tokens": tokens,
        "ended_by": "end of document" if tokens[-1] == speaker.end else ended_by,
        "first_token_seconds": round(times[1] - times[0], 6),
        "decode_seconds": round(decoding, 6),
        "tokens_per_second": round((len(tokens) - 1) / decoding, 3) if decoding else None,
    }


def _harmless(piece: str) -> str:
    """The text, on a terminal with control characters escaped: it would obey them."""
    if not sys.stdout.isatty():
        return piece
    return _CONTROL.sub(lambda found: rf"\x{ord(found[0]):02x}", piece)


def _summary(result: dict[str, Any]) -> str:
    """Tokens, speed and why generation ended, in one line."""
    reasons = {
        "end of document": "the model ended the document",
        "max tokens": "--max-tokens is reached",
        "context": "the model's context is full",
    }
    pace = f", {count_text(result['tokens_per_second'])} per second" if result["tokens_per_second"] else ""
    return (
        f"{len(result['tokens']):,} tokens{pace}, the first of them after {seconds_text(result['first_token_seconds'])}, "
        f"to a prompt of {result['prompt_tokens']:,}; {reasons[result['ended_by']]}"
    )
