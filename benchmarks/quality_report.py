"""The report of `bench_quality.py`: figures of every arm, and for each claim whether it is reached and by which differences.

Bits per byte are over all held-out documents; for an arm with several seeds, the mean of their losses is used. Differences
are paired per document, and their standard errors are over documents. A second error is due to the seeds: it is estimated
from the arms with several seeds, and assumed to be the same for all. `quality_runs` makes the losses, `quality_picture`
draws them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from quality_arms import ARMS, BASE, Arm
from quality_runs import Finding

from scone_cli.arrays import F64
from scone_cli.evaluation.metrics import Estimate, bits_per_byte
from scone_cli.formatting import bytes_text, seconds_text

WHOLE = "all"  # name of the group of all documents, beside the domains
REACHED, MISSED, OPEN = "reached", "not reached", "not measured yet"
_MOST_FLOPS = 1.4  # training FLOPs of Scone 1x over those of plain 1x, at most

TableRow = dict[str, Any]  # a line of a table, by column heading


class Difference(TypedDict):
    """Bits per byte of one arm minus those of another."""

    better: str
    worse: str
    domain: str
    difference: float
    stderr: float | None
    seed_error: float | None
    by_seed: list[float]


class Verdict(TypedDict):
    """Whether a claim is reached, and by which differences or by which ratio of FLOPs."""

    claim: str
    status: str
    clear: NotRequired[bool]
    differences: NotRequired[list[Difference]]
    times: NotRequired[float]


@dataclass(frozen=True)
class Outcome:
    """The results of one arm: all its finished seeds (at least one)."""

    arm: Arm
    findings: tuple[Finding, ...]

    @cached_property
    def nats(self) -> F64:
        """Loss of every document in nats, averaged over seeds."""
        mean: F64 = np.mean([finding.nats for finding in self.findings], axis=0)
        return mean

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes and costs of the model; those that differ between seeds, such as seconds, are averaged."""
        facts = [finding.facts for finding in self.findings]
        return {name: _mean([each[name] for each in facts]) for name in facts[0]}

    @property
    def domains(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Masks over documents: all of them, and those of each domain."""
        of = self.findings[0].domains
        return {WHOLE: np.full(of.size, True)} | {str(name): of == name for name in np.unique(of)}

    def bits(self, nats: F64, domain: str = WHOLE) -> Estimate:
        """Bits per byte of losses, or of differences of losses, with the standard error over documents."""
        inside, first = self.domains[domain], self.findings[0]
        return bits_per_byte(nats[inside], first.num_bytes[inside], first.tokens[inside])

    def seeds(self, domain: str = WHOLE) -> dict[int, float]:
        """Bits per byte by seed."""
        return {finding.run.seed: self.bits(finding.nats, domain).value for finding in self.findings}


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def outcomes_of(findings: Sequence[Finding]) -> dict[str, Outcome]:
    """Group the finished runs by arm, in the order of the arms."""
    by_arm = {arm.name: tuple(each for each in findings if each.run.arm is arm) for arm in ARMS}
    return {name: Outcome(each[0].run.arm, each) for name, each in by_arm.items() if each}


# ---- claims ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim that some arms are better than others by at least `margin` bits per byte; `by_domain`: in every domain."""

    text: str
    pairs: tuple[tuple[str, str], ...]  # (better arm, worse arm)
    margin: float = 0.0
    by_domain: bool = False


CLAIMS = (
    Claim(
        "plain is ordered by size",
        (("plain-1.9x", "plain-1x"), ("plain-2.5x", "plain-1.9x"), ("plain-4x", "plain-2.5x")),
    ),
    Claim(
        "plain 1.9x is better than plain 1x by 0.02 bits per byte or more", (("plain-1.9x", "plain-1x"),), margin=0.02
    ),
    Claim("Scone 1x is better than plain 2.5x in every domain", (("scone-1x", "plain-2.5x"),), by_domain=True),
    Claim("Scone 1x is better than plain 4x", (("scone-1x", "plain-4x"),)),
    Claim("the more f-grams the better", (("scone-1x-100k", "scone-1x-10k"), ("scone-1x", "scone-1x-100k"))),
    Claim(
        "the larger A_f-gram the better",
        (("scone-1x", "scone-1x-fgram-0.5x"), ("scone-1x-fgram-2x", "scone-1x")),
    ),
    Claim("rows learned beside A_f-gram's make Scone better", (("scone-1x", "scone-1x-alone"),)),
    Claim("without learned rows, too, Scone 1x is below plain 4x", (("scone-1x-alone", "plain-4x"),)),
    Claim("beyond: Scone 1x is better than plain 8x", (("scone-1x", "plain-8x"),)),
    Claim("beyond: Scone 1x is better than hashed 1x with as many rows", (("scone-1x", "hashed-1x"),)),
)


def judge(claim: Claim, outcomes: Mapping[str, Outcome]) -> Verdict:
    """Judge a claim by its paired differences, better arm minus worse arm: below 0 is as claimed.

    The verdict is clear if it stays the same when two standard errors are added to or taken from the differences.
    """
    parts: list[Difference] = []
    for better, worse in claim.pairs:
        if better not in outcomes or worse not in outcomes:
            return {"claim": claim.text, "status": OPEN, "differences": []}
        domains = [name for name in outcomes[better].domains if (name != WHOLE) == claim.by_domain]
        parts += [_difference(outcomes, better, worse, domain) for domain in domains]
    over = [part["difference"] + claim.margin for part in parts]
    errors = [2 * math.hypot(part["stderr"] or 0.0, part["seed_error"] or 0.0) for part in parts]
    is_reached = max(over) < 0
    sides = [value + error for value, error in zip(over, errors, strict=True)]
    is_clear = max(sides) < 0 if is_reached else any(value > error for value, error in zip(over, errors, strict=True))
    status = REACHED if is_reached else MISSED
    return {"claim": claim.text, "status": status, "clear": is_clear, "differences": parts}


def _difference(outcomes: Mapping[str, Outcome], better: str, worse: str, domain: str) -> Difference:
    """Difference of two arms in bits per byte: of the means over seeds, and of each seed that both have."""
    first, second = outcomes[better], outcomes[worse]
    found = first.bits(first.nats - second.nats, domain)
    seeds, others = first.seeds(domain), second.seeds(domain)
    spread = _seed_deviation(outcomes, domain)
    return {
        "better": better,
        "worse": worse,
        "domain": domain,
        "difference": found.value,
        "stderr": found.stderr,
        "seed_error": None if spread is None else spread * math.sqrt(1 / len(seeds) + 1 / len(others)),
        "by_seed": [value - others[seed] for seed, value in seeds.items() if seed in others],
    }


def _seed_deviation(outcomes: Mapping[str, Outcome], domain: str) -> float | None:
    """Standard deviation of bits per byte over seeds, pooled over the arms with several seeds; None without such arms."""
    several = [list(outcome.seeds(domain).values()) for outcome in outcomes.values() if len(outcome.findings) > 1]
    if not several:
        return None
    squares = sum((len(values) - 1) * statistics.variance(values) for values in several)
    return math.sqrt(squares / sum(len(values) - 1 for values in several))


def judge_cost(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Judge the claim that training Scone takes little more FLOPs than training the plain model."""
    text = f"training Scone 1x takes at most {_MOST_FLOPS} times the FLOPs of plain 1x"
    if "scone-1x" not in outcomes or BASE not in outcomes:
        return {"claim": text, "status": OPEN}
    times = outcomes["scone-1x"].facts["training_flops"] / outcomes[BASE].facts["training_flops"]
    return {"claim": text, "status": REACHED if times <= _MOST_FLOPS else MISSED, "times": times}


def verdicts(outcomes: Mapping[str, Outcome]) -> list[Verdict]:
    """Judge all claims."""
    return [*(judge(claim, outcomes) for claim in CLAIMS), judge_cost(outcomes)]


# ---- as JSON -----------------------------------------------------------------------------------------------------


def arm_rows(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """The arms as JSON values: settings, sizes and costs, and bits per byte over all documents and in each domain."""
    return [
        {
            "arm": name,
            "label": outcome.arm.label,
            "settings": dict(outcome.arm.settings),
            **outcome.facts,
            "bits_per_byte": {domain: _estimate(outcome.bits(outcome.nats, domain)) for domain in outcome.domains},
            "seeds": outcome.seeds(),
        }
        for name, outcome in outcomes.items()
    ]


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "stderr": found.stderr, "tokens": found.n}


# ---- as tables ---------------------------------------------------------------------------------------------------


def tables(outcomes: Mapping[str, Outcome]) -> dict[str, list[TableRow]]:
    """The tables of the report by title, without empty ones; every value is a text or a whole number."""
    judged = verdicts(outcomes)
    differences = [(verdict["claim"], part) for verdict in judged for part in verdict.get("differences", ())]
    found = {
        "quality and cost": [_arm_row(outcome, outcomes.get(BASE)) for outcome in outcomes.values()],
        "bits per byte by domain": _domain_rows(outcomes),
        "differences, bits per byte": [_difference_row(claim, part) for claim, part in differences],
        "claims": [_claim_row(verdict) for verdict in judged],
    }
    return {title: rows for title, rows in found.items() if rows}


def _arm_row(outcome: Outcome, base: Outcome | None) -> TableRow:
    facts, found, seeds = outcome.facts, outcome.bits(outcome.nats), list(outcome.seeds().values())
    size, flops = facts["resident_non_embedding_parameters"], facts["training_flops"]
    return {
        "arm": outcome.arm.label,
        "bits per byte": _with_error(found.value, found.stderr),
        "seeds": f"{len(seeds)}, sd {statistics.stdev(seeds):.4f}" if len(seeds) > 1 else "1",
        "resident": facts["resident_parameters"],
        "not embeddings": size,
        "times 1x": f"{size / base.facts['resident_non_embedding_parameters']:.2f}" if base else "-",
        "training only": facts["training_only_parameters"],
        "offloaded rows": facts["offloaded_rows"],
        "offloaded": bytes_text(facts["offloaded_bytes"]) if facts["offloaded_rows"] else "-",
        "FLOPs per token": f"{facts['inference_flops_a_token'] / 1e6:.2f}M",
        "training FLOPs": f"{flops:.3g}",
        "times plain 1x": f"{flops / base.facts['training_flops']:.2f}" if base else "-",
        "training": seconds_text(facts["training_seconds"]),
    }


def _domain_rows(outcomes: Mapping[str, Outcome]) -> list[TableRow]:
    rows = []
    for outcome in outcomes.values():
        found = {domain: outcome.bits(outcome.nats, domain) for domain in outcome.domains}
        texts = {domain: _with_error(each.value, each.stderr) for domain, each in found.items()}
        rows.append({"arm": outcome.arm.label} | texts)
    return rows


def _claim_row(verdict: Verdict) -> TableRow:
    """One line per claim; of several differences it shows the one that is closest to failing."""
    parts, numbers = verdict.get("differences", ()), ""
    if parts:
        worst = max(parts, key=lambda part: part["difference"])
        numbers = _difference_text(worst)
        if len(parts) > 1:
            place = f"{worst['better']} - {worst['worse']}" if worst["domain"] == WHOLE else worst["domain"]
            as_claimed = sum(part["difference"] < 0 for part in parts)
            numbers = f"{as_claimed} of {len(parts)} below 0, the highest {numbers} ({place})"
    elif "times" in verdict:
        numbers = f"{verdict['times']:.3f} times"
    unclear = "" if verdict.get("clear", True) else ", within two errors"
    return {"claim": verdict["claim"], "status": verdict["status"] + unclear, "bits per byte": numbers}


def _difference_row(claim: str, part: Difference) -> TableRow:
    return {
        "claim": claim,
        "difference of": f"{part['better']} - {part['worse']}",
        "domain": part["domain"],
        "bits per byte": _difference_text(part),
        "by seed": ", ".join(f"{value:+.4f}" for value in part["by_seed"]) or "-",
    }


def _difference_text(part: Difference) -> str:
    """A difference with its error over documents and, if known, its error over seeds."""
    text = _with_error(part["difference"], part["stderr"], "+.4f")
    return text if part["seed_error"] is None else f"{text} (text) ± {part['seed_error']:.4f} (seeds)"


def _with_error(value: float, stderr: float | None, form: str = ".4f") -> str:
    return f"{value:{form}}" if stderr is None else f"{value:{form}} ± {stderr:.4f}"


def markdown(found: Mapping[str, Sequence[TableRow]]) -> str:
    """Format the tables of the report as Markdown."""
    parts = []
    for title, rows in found.items():
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        table = "\n".join(f"| {' | '.join(map(_cell, each))} |" for each in lines)
        parts.append(f"### {title.capitalize()}\n\n{table}\n")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
