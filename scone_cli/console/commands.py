"""The commands: their parameters, the calls of the stages, and the output of `inspect` and `verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from scone_cli.artifacts.manifest import GIVEN, Given, read_manifest
from scone_cli.artifacts.publish import check_workspace, workspace_lock
from scone_cli.artifacts.registry import is_registry_name, table_of
from scone_cli.artifacts.verify import artifact_folders, verify_artifact
from scone_cli.console import help_texts, output
from scone_cli.console.audit_command import audit
from scone_cli.console.cost_command import cost
from scone_cli.console.export_command import export
from scone_cli.console.figures import cut_text, description_text, terms_text
from scone_cli.console.help_texts import STAGES
from scone_cli.console.hints import completed
from scone_cli.console.options import (
    Corpora,
    NamedFolder,
    PlainPath,
    Session,
    SettingOption,
    TaskName,
    describe_sources,
    setting_options,
)
from scone_cli.console.progress_bars import listening
from scone_cli.console.recipe_command import recipe
from scone_cli.console.recipes import TRAIN
from scone_cli.console.registry_commands import fetch, publish, rollback
from scone_cli.console.results import drawn, result_text, sentence
from scone_cli.console.run_notes import begins
from scone_cli.console.status_command import status
from scone_cli.console.table_commands import generate_command, given_text, lookup
from scone_cli.errors import BadData, BadSetting, SconeError
from scone_cli.evaluation.break_even import Prices
from scone_cli.formatting import bytes_text, harmless, path_text, seconds_text
from scone_cli.progress import Progress
from scone_cli.report.describe import describe, describe_terms, describe_text
from scone_cli.report.ngram_figures import portrait_page
from scone_cli.report.page import check_target, write_page
from scone_cli.runtime.resources import storage_failures
from scone_cli.runtime.torchrun import launched
from scone_cli.stages import Report

PATH = PlainPath()
_TOGETHER = ("train-fgram", "precompute")  # stages that torchrun may run with several processes


def build_command(name: str) -> click.Command:
    """The command `name` with its parameters; a stage's module is imported here."""
    looking = {"inspect": inspect, "lookup": lookup, "generate": generate_command(), "verify": verify}
    looking |= {"recipe": recipe, "cost": cost, "export": export}
    looking |= {"audit": audit, "status": status}
    looking |= {"publish": publish, "rollback": rollback, "fetch": fetch}
    return looking.get(name) or _stage_command(name)


# ---- the stages --------------------------------------------------------------------------------------------------


def _stage_command(name: str) -> click.Command:
    """The command of a stage: its own parameters, an option for every field of its config, and the common options."""
    stage = STAGES[name]

    @click.pass_context
    def callback(ctx: click.Context, /, force: bool, plan: bool, as_json: bool, **values: Any) -> None:
        config_class = stage.config_class()
        config = config_class(**{item.name: values[item.name] for item in dataclasses.fields(config_class)})
        started = time.monotonic()
        leads = name not in _TOGETHER or launched().rank == 0
        if plan:
            if leads:
                _print_plan(_plan_stage(ctx, name, config, values, force), as_json)
            return
        report = _run_stage(ctx, name, config, values, force, leads)
        if leads:
            session: Session = ctx.obj
            _print_report(report, round(time.monotonic() - started, 3), as_json, session.verbose)
        if report.problem:
            raise SconeError(report.problem)

    params = [
        *_own_parameters(name),
        *setting_options(stage.config_class()),
        click.Option(["--force"], is_flag=True, help="Make the artifact again, even if it is up to date."),
        click.Option(
            ["--plan"], is_flag=True, help="Show what would be done and what it would take, without writing anything."
        ),
        click.Option(["as_json", "--json"], is_flag=True, help="Print the result as one JSON object."),
    ]
    return click.Command(name, params=params, help=stage.about, short_help=stage.short, callback=callback)


def _own_parameters(name: str) -> list[click.Parameter]:
    """The parameters that are not settings: inputs, and the folder of the output."""
    if name == "count-ngrams":
        return [Corpora(name, required=True)]
    if name in {"train-fgram", "precompute"}:
        artifact = STAGES[name].artifact
        help_text = f"Folder of the {artifact}.  [default: {artifact} in the workspace]"
        out = SettingOption(["--out"], type=PATH, metavar="DIR", help=help_text)
        return [out, _baseline_option()] if name == TRAIN else [out]
    if name == "eval":
        texts = {
            "against": "Also evaluate this model: its folder (ours, or one of Hugging Face), NAME=MODEL_DIR, or the name of a "
            "baseline of the recipe; may be given several times.",
            "table": "Also evaluate this table of the same model, or that of a REGISTRY/NAME; may be given several times.",
            "tasks": "Also evaluate this task of lm-evaluation-harness: a file, a folder, or a name; may be given several times.",
            "fail-if": "Exit with code 1 if this holds, such as 'table.ppl > live.ppl * 1.001'; may be given several times.",
        }
        kinds: dict[str, tuple[click.ParamType[Any], str]] = {"against": (NamedFolder(), "MODEL_DIR")}
        kinds |= {
            "table": (NamedFolder(), "DIR"),
            "tasks": (TaskName(), "TASK"),
            "fail-if": (click.STRING, "CONDITION"),
        }
        options = [
            SettingOption([f"--{flag}"], multiple=True, type=kind, metavar=metavar, help=texts[flag])
            for flag, (kind, metavar) in kinds.items()
        ]
        task_data = "Folder with the data of the named tasks: piqa, arc_easy, arc_challenge, hellaswag, lambada."
        terms = "Also evaluate the tokens inside the terms of a field: a file with one term per line."
        limit = "Use at most N items of each task."
        options += [
            SettingOption(["--task-data"], type=PATH, metavar="DIR", help=task_data),
            SettingOption(["--limit"], type=click.IntRange(min=1), metavar="N", help=limit),
            SettingOption(["--terms"], type=PATH, metavar="FILE", help=terms),
        ]
        return [Corpora(name, required=False), *options]
    return []


def _baseline_option() -> click.Parameter:
    """`--baseline NAME`, read before the settings, so that their values come from the baseline of the recipe."""

    def take(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:  # noqa: ARG001
        if name is not None:
            session: Session = ctx.obj
            folder, settings = session.baseline(name)
            ctx.default_map = {**(ctx.default_map or {}), **settings, "out": str(folder)}
        return name

    help_text = "Train this baseline of the recipe, [train-fgram.NAME], into the folder NAME of the workspace."
    return SettingOption(["--baseline"], metavar="NAME", is_eager=True, callback=take, help=help_text)


def _inputs_and_out(session: Session, name: str, values: dict[str, Any]) -> tuple[Any, Path]:
    """The inputs of the stage's `run`, and the folder it writes."""
    workspace = session.workspace
    if name == "count-ngrams":
        return values["corpus"], workspace
    out = values.get("out") or workspace / STAGES[name].artifact
    if name == "eval":
        values["against"] = tuple(map(session.rival, values["against"]))
        values["table"] = tuple(_published(session.beside(given)) for given in values["table"])
        parts = ("corpus", "against", "table", "fail_if", "tasks", "task_data", "limit", "terms")
        given = (values[part] for part in parts)
        prices = session.recipe.tables.get("prices", {}) if session.recipe else {}
        return STAGES[name].module().Inputs(workspace, *given, Prices(**prices)), out
    return workspace, out


def _published(given: Path) -> Path:
    """DIR or NAME=DIR; a REGISTRY/NAME becomes the table of its current version, under the same name."""
    name, _, folder = str(given).rpartition("=")
    return Path(f"{name or Path(folder).name}={table_of(Path(folder))}") if is_registry_name(folder) else given


def _run_stage(ctx: click.Context, name: str, config: Any, values: dict[str, Any], force: bool, leads: bool) -> Report:
    """Run a stage under the workspace's lock. Under torchrun only rank 0 leads: it holds the lock and shows progress."""
    session: Session = ctx.obj
    inputs, out = _inputs_and_out(session, name, values)
    if leads and not session.quiet:
        _tell_recipe(session, out)
    if session.verbose and leads:
        output.say(f"{name}: workspace {session.workspace}, writes {out}")
        for setting, value, source in describe_sources(ctx, config, session.recipe):
            output.say(f"  {setting:18} {value:18} {source}")
    with (
        storage_failures(session.workspace),
        workspace_lock(session.workspace) if leads else contextlib.nullcontext(),
        listening(session.quiet or not leads, session.verbose) as progress,
        _given(ctx, session),
    ):
        if leads:
            begins(session.workspace, _record_of(name, session.workspace, out))
        report: Report = STAGES[name].module().run(config, inputs, out, progress, force)
    if session.verbose and leads and report.seconds:
        output.say("processor seconds of all processes together:")
        for what, seconds in report.seconds.items():
            output.say(f"  {seconds:10.1f}  {what}")
    return report


def _record_of(name: str, workspace: Path, out: Path) -> str:
    """The name of a stage's record: for a folder that is not the stage's own, its name too: `train-fgram.plain`."""
    own = workspace / STAGES[name].artifact
    return name if out.absolute() == own.absolute() else f"{name}.{out.name}"


@contextlib.contextmanager
def _given(ctx: click.Context, session: Session) -> Iterator[None]:
    """Record the recipe in the manifests that are written meanwhile."""
    recipe = session.recipe.origin if session.recipe else {}
    if ctx.params.get("baseline"):
        recipe |= {"baseline": ctx.params["baseline"]}
    known = {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}
    token = GIVEN.set(Given(recipe, frozenset(name for name in ctx.params if ctx.get_parameter_source(name) in known)))
    try:
        yield
    finally:
        GIVEN.reset(token)


def _tell_recipe(session: Session, out: Path) -> None:
    """Note that the artifact was made with a recipe, if another one or none is given now."""
    for folder in (out, session.workspace / "tokens"):
        try:
            made_with = read_manifest(folder).recipe
        except SconeError:
            continue  # not there yet, or damaged, which the stage reports
        now = session.recipe.origin if session.recipe else {}
        if made_with and made_with["path"] != now.get("path") and made_with["sha256"] != now.get("sha256"):
            instead = "another one is given now" if now else "none is given now (--config)"
            output.say(f"note: {folder} was made with the recipe {path_text(made_with['path'])}; {instead}")
        return


def _plan_stage(ctx: click.Context, name: str, config: Any, values: dict[str, Any], force: bool) -> Report:
    """The plan of a stage; without the lock, as nothing is written and another run may be active."""
    session: Session = ctx.obj
    check_workspace(session.workspace)
    inputs, out = _inputs_and_out(session, name, values)
    if not session.quiet:
        _tell_recipe(session, out)
    with (
        storage_failures(session.workspace),
        listening(session.quiet, session.verbose) as progress,
        _given(ctx, session),
    ):
        report: Report = STAGES[name].module().plan(config, inputs, out, progress, force)
    return report


def _print_plan(report: Report, as_json: bool) -> None:
    if as_json:
        facts = {"stage": report.stage, "out": str(report.out), "up_to_date": report.up_to_date}
        output.print_json(facts | {"plan": report.summary})
    else:
        how = "up to date, nothing to do" if report.up_to_date else "plan"
        output.print_result(result_text(f"{report.stage} -> {report.out} ({how})", report.summary))
    if report.problem:
        raise BadSetting(report.problem)


def _print_report(report: Report, seconds: float, as_json: bool, verbose: bool) -> None:
    if as_json:
        facts = {"stage": report.stage, "out": str(report.out), "up_to_date": report.up_to_date, "seconds": seconds}
        output.print_json(facts | dict(report.details or report.summary))
        return
    how = "up to date" if report.up_to_date else f"made in {seconds_text(seconds)}"
    heading = harmless(f"{report.stage} -> {report.out} ({how})")
    if report.up_to_date and not verbose:  # its results have been shown when it was made
        page, folder = report.out / "report.html", shlex.quote(str(report.out))
        heading += harmless(f"; see: {page if page.exists() else f'scone inspect {folder}'}")
        output.print_result(drawn(lambda console: _print_shortly(console, heading, report.conclusion)))
    else:
        output.print_result(result_text(heading, report.summary))


def _print_shortly(console: Console, heading: str, conclusion: str) -> None:
    console.print(Text(heading, style="bold"), soft_wrap=True)
    sentence(console, conclusion, style="")


# ---- looking at artifacts ----------------------------------------------------------------------------------------


@click.command(help=help_texts.INSPECT_ABOUT, short_help=help_texts.LOOKING["inspect"])
@click.argument("path", type=PATH, required=False)
@click.option("--rows", type=click.IntRange(min=0), default=10, show_default=True, help="Number of rows to show.")
@click.option(
    "--html", type=PATH, metavar="FILE", help="Write the figures of counts/, vocab/ or model/ as one HTML page."
)
@click.option("--text", metavar="TEXT", help="Show how the f-grams of vocab/ match this text; `-` is standard input.")
@click.option("--terms", type=PATH, metavar="FILE", help="Show how vocab/ matches these terms, one per line.")
@click.option("as_json", "--json", is_flag=True, help="Print the description as one JSON object.")
@click.pass_obj
def inspect(
    session: Session,
    /,
    path: Path | None,
    rows: int,
    html: Path | None,
    text: str | None,
    terms: Path | None,
    as_json: bool,
) -> None:
    """Show what an artifact is."""
    path = table_of(path or session.workspace)
    given = [option for option, value in (("--html", html), ("--text", text), ("--terms", terms)) if value is not None]
    if len(given) > 1:
        raise click.UsageError(
            f"{given[0]} and {given[1]} cannot be given together: each shows something else of the artifact"
        )
    with storage_failures(html or path):
        if terms:
            matched = describe_terms(path, terms)
            if as_json:
                output.print_json(matched)
            else:
                output.print_result(terms_text(matched))
            return
        if text is not None:
            cut = describe_text(path, given_text("--text", text) if text else text)
            if as_json:
                output.print_json(cut)
            else:
                output.print_result(cut_text(cut))
            return
        if html:
            check_target(html)
        in_a_log = session.quiet or not output.is_terminal(
            sys.stderr
        )  # it takes a few seconds: a log needs no progress
        with listening(in_a_log, session.verbose) as progress:
            description = describe(path, rows, progress)
        written: dict[str, Any] = {}
        if html:
            written = {"html": str(html), "html_bytes": write_page(html, portrait_page(path, description))}
    if as_json:
        output.print_json(description | written)
    elif written:
        output.print_result(harmless(f"{path} -> {html}") + f": one page of {bytes_text(written['html_bytes'])}")
    else:
        output.print_result(description_text(path, description))


@click.command(help=help_texts.VERIFY_ABOUT, short_help=help_texts.LOOKING["verify"])
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH)
@click.option("as_json", "--json", is_flag=True, help="Print the verdicts as one JSON object.")
@click.pass_obj
def verify(session: Session, /, paths: Sequence[Path], as_json: bool) -> None:
    """Check artifacts against their manifests."""
    folders = [folder for path in paths or (session.workspace,) for folder in artifact_folders(path)]
    with listening(session.quiet, session.verbose) as progress:
        verdicts = [_verdict(folder, session, progress) for folder in folders]
    wrong = sum(not verdict["ok"] for verdict in verdicts)
    if as_json:
        output.print_json({"ok": not wrong, "artifacts": verdicts})
    else:
        output.print_result("\n".join(map(_verdict_text, verdicts)))
    if wrong:
        raise BadData(f"{wrong} of {len(folders)} artifacts are damaged, or were made from other artifacts")


def _verdict(folder: Path, session: Session, progress: Progress) -> dict[str, Any]:
    """The verdict on one artifact: `ok`, or its error and a hint."""
    verdict: dict[str, Any] = {"folder": str(folder), "ok": False, "artifact": None, "bytes": None}
    try:
        with storage_failures(folder):
            found = verify_artifact(folder, progress)
    except SconeError as error:
        beside = Path(path_text(str(folder.absolute().parent)))
        workspace = beside if (beside / "tokens").is_dir() else session.workspace
        recipe = session.recipe.path if session.recipe else None
        hint = error.hint and completed(error.hint, workspace, recipe)
        return verdict | {"error": error.message, "hint": hint}
    kind, size = getattr(found, "artifact", "version"), sum(stamp.bytes for stamp in found.files.values())
    return verdict | {"ok": True, "artifact": kind, "bytes": size, "error": None, "hint": None}


def _verdict_text(verdict: dict[str, Any]) -> str:
    if not verdict["ok"]:
        hint = f"\n       {harmless(verdict['hint'])}" if verdict["hint"] else ""
        return f"WRONG  {harmless(verdict['error'])}{hint}"
    return f"ok     {harmless(verdict['folder'])}: {verdict['artifact']}, {bytes_text(verdict['bytes'])}"
