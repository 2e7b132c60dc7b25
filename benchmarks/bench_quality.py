"""Benchmark of quality: trains Scone and its rivals on the same tokens, and compares their bits per byte on held-out text.

    python benchmarks/bench_quality.py CORPUS --workspace headline                 many hours; may be stopped and started
    python benchmarks/bench_quality.py --workspace headline --arms plain-4x        beside it, on another core
    python benchmarks/bench_quality.py --workspace headline --report-only

`pipelines/headline.toml` has the settings that all arms share, `quality_arms.py` those of each arm. All arms see the same
tokens in the same order. A finished run is not repeated, and a stopped run continues; after every run the report is
written again from all finished runs. Several processes may share a workspace: each takes the next run that is free.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from measuring import finish
from quality_arms import ARMS, BASE, Experiment, non_embedding_parameters
from quality_picture import picture
from quality_report import WHOLE, arm_rows, markdown, outcomes_of, tables, verdicts
from quality_runs import Finding, carry_out, exit_code_of, findings, held, held_out_size, prepare

from scone_cli.artifacts.publish import write_atomically
from scone_cli.console.output import say, say_error
from scone_cli.console.results import result_text
from scone_cli.errors import BadSetting, InputMissing, SconeError
from scone_cli.runtime.signals import StopNote, Stopped
from scone_cli.training.settings import settings_of

HERE = Path(__file__).parent
QUESTION = "what is Scone worth"
# Settings that arms do not share: the kind and shape of a model, and the learning rate (deeper models need a lower one).
OF_THE_ARM = ("kind", "dim", "layers", "heads", "fgram_layers", "learned_rows", "hashed_rows", "learning_rate", "seed")


def main(args: list[str] | None = None) -> int:
    """Run the benchmark; returns an exit code of `scone`."""
    chosen = _parse(args)
    return exit_code_of(lambda stop: _run(chosen, stop))


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="*", metavar="CORPUS", help="not needed where there are counts")
    parser.add_argument("--workspace", type=Path, default=Path("headline"), help="[headline]")
    parser.add_argument(
        "--recipe", type=Path, default=HERE.parent / "pipelines" / "headline.toml", help="[headline.toml]"
    )
    parser.add_argument("--tokens", default="", help="to train on, such as 2e8 [the recipe's steps]")
    names = ", ".join(arm.name for arm in ARMS)
    parser.add_argument("--arms", default="", help=f"of {names}, with commas [all but plain-8x]")
    parser.add_argument(
        "--rate", action="append", default=[], metavar="ARM=RATE", help="another learning rate of an arm"
    )
    parser.add_argument("--out", type=Path, default=HERE / "quality", help="where the report goes [benchmarks/quality]")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    return parser.parse_args(args)


def _num_tokens(text: str) -> int:
    """The number of tokens in `--tokens`; 0 if it is not given.

    Raises:
        BadSetting: the text is not a number of tokens.
    """
    try:
        number = float(text or 0)
    except ValueError:
        number = math.nan
    if text and not 1 <= number < 1 << 63:
        raise BadSetting(f"--tokens {text}: expected a number from 1 on, such as 2e8")
    return int(number)


def _rate(text: str) -> tuple[str, float]:
    """The arm and the learning rate of `--rate`.

    Raises:
        BadSetting: the text is not ARM=RATE.
    """
    arm, _, number = text.partition("=")
    try:
        return arm, float(number)
    except ValueError:
        raise BadSetting(f"--rate {text}: expected the name of an arm and a number, such as plain-4x=0.02") from None


def _run(chosen: argparse.Namespace, stop: StopNote) -> int:
    names = [name for name in chosen.arms.split(",") if name]
    rates = dict(map(_rate, chosen.rate))
    experiment, work = Experiment.read(chosen.recipe, names, _num_tokens(chosen.tokens), rates), chosen.workspace
    failed = 0
    if chosen.report_only and not work.is_dir():
        raise InputMissing(f"{work}: no such workspace", "give the command without --report-only")
    if not chosen.report_only:
        _say_sizes(experiment)
        prepare(experiment, chosen.corpus, work)
        for run in experiment.runs(experiment.arms):
            say(f"== {run.title}")
            try:
                if not carry_out(run, work):
                    say("another process is at it")
            except SconeError as error:  # a run that fails does not stop the others
                say_error(f"{run.title}: {error.message}", error.hint)
                failed = error.exit_code
                if stop.signum:  # it failed while it was being stopped
                    raise Stopped(stop.signum) from error
            _report(experiment, work, chosen.out)
    found = _report(experiment, work, chosen.out)
    if not found:
        say_error(f"{work}: no run is finished", "give the command without --report-only")
        return failed or 1
    _print(found, work)
    return failed


def _say_sizes(experiment: Experiment) -> None:
    """Print the arms that will be trained, with their numbers of parameters."""
    runs = [experiment.run(arm, 0) for arm in experiment.arms]
    base = non_embedding_parameters(experiment.run(next(arm for arm in ARMS if arm.name == BASE), 0).config)
    for run in runs:
        size, seeds = non_embedding_parameters(run.config), f"{run.arm.seeds} seed{'s' if run.arm.seeds > 1 else ''}"
        say(f"{run.arm.name:20} {size:>10,} resident parameters without embeddings, {size / base:.2f}x, {seeds}")


def _report(experiment: Experiment, work: Path, out: Path) -> list[Finding]:
    """Write the report of all finished runs, if there are any."""
    with held(work):  # another process may be writing the report too
        found = findings(experiment, work)
        if not found:
            return found
        outcomes, out = outcomes_of(found), out.resolve()
        results = {
            "question": QUESTION,
            "held_out": held_out_size(found),
            "settings": {k: v for k, v in settings_of(experiment.train).items() if k not in OF_THE_ARM},
            "arms": arm_rows(outcomes),
            "claims": verdicts(outcomes),
        }
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(out / "results.md", markdown(tables(outcomes)).encode())
        write_atomically(out / "quality.svg", picture(outcomes).encode())
    return found


def _print(found: list[Finding], work: Path) -> None:
    """Print the tables, and the JSON line that ends every benchmark."""
    outcomes = outcomes_of(found)
    print(result_text(QUESTION, {"held_out": held_out_size(found), **tables(outcomes)}), end="\n\n")
    figures: dict[str, Any] = {
        "training_tokens": found[0].facts["training_tokens"],
        "bits_per_byte": {row["arm"]: row["bits_per_byte"][WHOLE]["value"] for row in arm_rows(outcomes)},
        "claims": {verdict["claim"]: verdict["status"] for verdict in verdicts(outcomes)},
    }
    finish(QUESTION, work, **figures)


if __name__ == "__main__":
    sys.exit(main())
