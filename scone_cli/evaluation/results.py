"""Reads results.json for the page and the verdict: which arms are rivals, how large they are, how they compare.

Losses are nats per token; a difference is the loss of the table minus that of another arm, so below zero the table is better.
`exp` of it is the ratio of the perplexities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from scone_cli.artifacts.manifest import json_of
from scone_cli.errors import DamagedArtifact
from scone_cli.evaluation.result_types import ArmCost, Clustering, Corpus, Metric, Results
from scone_cli.formatting import NOTHING, percent

# Arms of the model that is evaluated: rows from the table, A_f-gram runs, no rows.
TABLE, LIVE, NONE = "table", "live", "none"
BETTER, WORSE, SAME, NOT_SHOWN = "better", "worse", "the same", "no difference shown"
TOO_FEW = "too few"  # clusters where a term occurs, or items of a task: no finding
_OF_ROUNDING = 1e-3  # nats per token, 0.1% of the perplexity: a smaller difference from `live` comes from rounded rows
_HARDLY_ANY = 0.1  # share of the documents of a corpus: with fewer trained on, it counts as new
_SAME_SIZE = 0.02  # relative difference in resident parameters that no reader would call another size


@dataclass(frozen=True)
class Comparison:
    """The table against one other arm on one corpus.

    low, high: the 95% interval; None for too little text. of_this_text: it holds for this text only, see `clusters`.
    """

    against: str
    corpus: str
    nats: float
    low: float | None
    high: float | None
    finding: str
    of_this_text: bool = False

    @property
    def change(self) -> float:
        """Relative change of the perplexity, from the other arm to the table: -0.1 is 10% lower."""
        return math.expm1(self.nats)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of `change`; None for too little text."""
        return None if self.low is None or self.high is None else (math.expm1(self.low), math.expm1(self.high))


def read_results(folder: Path) -> Results:
    """The results of an evaluation that was published in `folder`.

    Raises:
        DamagedArtifact: the file does not hold results.
        OSError: they cannot be read.
    """
    path = folder / "results.json"
    try:
        return cast("Results", dict(json_of(path.read_bytes())))
    except (ValueError, TypeError) as error:
        raise DamagedArtifact(f"{path}: not results ({error})", "run: scone eval --force") from error


def arms_of(results: Results) -> list[str]:
    """All arms, in the order of the results."""
    measured = [row["arm"] for row in results.get("results", [])]
    return list(dict.fromkeys([*measured, *(row["arm"] for row in results.get("cost", []))]))


def is_table(arm: str) -> bool:
    """Whether an arm is the workspace's table or a further one."""
    return arm == TABLE or arm.startswith(f"{TABLE}:")


def rivals_of(results: Results) -> list[str]:
    """The arms with another model, unlike live, none and the tables, which share this one."""
    return [arm for arm in arms_of(results) if arm not in (LIVE, NONE) and not is_table(arm)]


def corpora_of(results: Results) -> list[str]:
    """The corpora as they were given, without the folders in them."""
    named = [row["corpus"] for row in told_corpora(results)]
    found = dict.fromkeys(row["corpus"] for row in results.get("results", []))
    return named or [corpus for corpus in found if corpus.rpartition("/")[0] not in found]


def judged_corpora(results: Results) -> list[str]:
    """The corpora that may decide a verdict: few of their documents were trained on. All corpora if there is none such."""
    corpora = corpora_of(results)
    new = [corpus for corpus in corpora if _share_seen(corpus_facts(results, corpus)) < _HARDLY_ANY]
    return new or corpora


def _share_seen(facts: Corpus | None) -> float:
    return facts["in_training_split"] / max(facts["documents"], 1) if facts else 0.0


def told_corpora(results: Results) -> list[Corpus]:
    """The corpora as `method` describes them; empty where it does not."""
    return results.get("method", {}).get("corpora", [])


def corpus_facts(results: Results, corpus: str) -> Corpus | None:
    """Documents, tokens, bytes and so on of a corpus; None where `method` does not describe it."""
    return next((row for row in told_corpora(results) if row["corpus"] == corpus), None)


def clusters_of(results: Results, corpus: str) -> Clustering | None:
    """What the errors on a corpus or folder are clustered by; None where it is not known."""
    return next((row for row in results.get("clusters", []) if row["corpus"] == corpus), None)


def is_of_this_text(clusters: Clustering | None) -> bool:
    """Whether errors hold for this text only: they are clustered by blocks of it, see `clusters`."""
    return clusters is not None and clusters["by"] == "blocks"


def errors_told(clusters: Clustering | None) -> str:
    """A remark on errors that are clustered by blocks; empty for others."""
    if clusters is None or clusters["by"] != "blocks":
        return ""
    if clusters["number"] < 2:
        return "no errors and no intervals, as it is too short to be cut into blocks"
    size = f"{clusters['number']} blocks of about {clusters['mean_tokens']:,} tokens"
    reach = max(1, clusters["mean_tokens"] // 10)
    return (
        f"errors are clustered by {size}; they hold for this text only, and only if text is independent "
        f"of what stands more than {reach:,} token{'s' * (reach != 1)} before it"
    )


def text_of(corpus: str) -> str:
    """A corpus as a sentence names it."""
    return "held-out text" if corpus in ("held-out", "held_out") else corpus


def named_text(results: Results, corpus: str) -> str:
    """A corpus as a sentence names it, with the number of its documents that were trained on: a gain there is no evidence."""
    facts = corpus_facts(results, corpus)
    if not facts or not (seen := facts["in_training_split"]):
        return text_of(corpus)
    if seen == 1 == facts["documents"]:
        return f"{text_of(corpus)} (which was trained on)"
    were = "was" if seen == 1 else "were"
    return f"{text_of(corpus)} ({seen:,} of its {facts['documents']:,} documents {were} trained on)"


def comparisons(results: Results, against: str | None = None, corpus: str | None = None) -> list[Comparison]:
    """The table against other arms, or one, on all corpora, or one."""
    return [
        Comparison(
            *(row["against"], row["corpus"], row["nats_per_token"], row.get("low"), row.get("high"), row["finding"]),
            of_this_text=is_of_this_text(clusters_of(results, row["corpus"])),
        )
        for row in results.get("differences", [])
        if row["arm"] == TABLE and against in (None, row["against"]) and corpus in (None, row["corpus"])
    ]


def value_of(results: Results, arm: str, corpus: str, metric: str) -> Metric | None:
    """One metric of an arm on a corpus or folder; None where it was not measured."""
    wanted = (arm, corpus, metric)
    return next(
        (row for row in results.get("results", []) if (row["arm"], row["corpus"], row["metric"]) == wanted), None
    )


class Short(TypedDict):
    """The part of the results that the manifest of an evaluation keeps."""

    corpora: list[dict[str, str | int]]
    quality: list[dict[str, str | float]]
    verdict: str


def in_short(results: Results) -> Short:
    """What the manifest of an evaluation keeps of its results: what was read, what it is worth, and the verdict."""
    metrics = ("perplexity", "bits_per_byte")
    quality: list[dict[str, str | float]] = [
        {"arm": arm, "corpus": corpus}
        | {metric: row["value"] for metric in metrics if (row := value_of(results, arm, corpus, metric))}
        for corpus in corpora_of(results)
        for arm in arms_of(results)
    ]
    read: list[dict[str, str | int]] = [
        {"corpus": row["corpus"], "documents": row["documents"], "tokens": row["tokens"]}
        for row in results["method"]["corpora"]
    ]
    return {"corpora": read, "quality": quality, "verdict": results["verdict"]}


def cost_of(results: Results, arm: str) -> ArmCost | None:
    """What an arm costs; None where it is not known."""
    return next((row for row in results.get("cost", []) if row["arm"] == arm), None)


def generation_speeds(results: Results) -> dict[str, float]:
    """Tokens per second of one stream that generates, by arm, with tables mapped. Empty without --speed."""
    return {
        row["arm"]: row["tokens_a_second"]
        for row in results.get("speed", [])
        if (row["phase"], row["batch"]) == ("decode", 1) and row["placement"] != "ram"
    }


def times_resident(results: Results, arm: str) -> float | None:
    """Resident parameters of an arm as a multiple of those of the table's model; 1 where they are nearly equal."""
    own, other = (cost["resident_parameters"] if (cost := cost_of(results, each)) else 0 for each in (TABLE, arm))
    if not own or not other:
        return None
    return 1.0 if abs(other / own - 1) <= _SAME_SIZE else float(other / own)


def closest_rival(results: Results, corpus: str) -> Comparison | None:
    """The comparison that decides: with the best rival of the same resident size, else with the one nearest in size."""
    rivals = rivals_of(results)
    found = [each for each in comparisons(results, corpus=corpus) if each.against in rivals]

    def distance(each: Comparison) -> float:
        times = times_resident(results, each.against)
        return math.inf if times is None else abs(math.log(times))

    return min(found, key=lambda each: (distance(each), -each.nats), default=None)


def headline_of(results: Results) -> Comparison | None:
    """The comparison that decides, on the first corpus on which there is one."""
    found = (closest_rival(results, corpus) for corpus in judged_corpora(results))
    return next((each for each in found if each is not None), None)


def drawn_corpus(results: Results) -> str:
    """The corpus of the charts that have room for one."""
    headline = headline_of(results)
    return headline.corpus if headline else next(iter(judged_corpora(results)), "")


def opponent_of(results: Results) -> str | None:
    """The arm that the page compares the table with: the rival that decides, else the same model without its rows."""
    if headline := headline_of(results):
        return headline.against
    return NONE if comparisons(results, NONE) else None


def bits_a_byte(results: Results, found: Comparison) -> float | None:
    """A difference in bits per byte; None where the bytes are not known."""
    facts = corpus_facts(results, found.corpus)
    if facts is None or not facts["bytes"]:
        return None
    return found.nats / math.log(2) * facts["tokens"] / facts["bytes"]


# ---- what is found, in words --------------------------------------------------------------------------------------


def told_finding(against: str, finding: str, low: float | None, high: float | None) -> str:
    """A finding in words: of the model that made the table, a difference that rounded rows explain is called so."""
    is_rounding = low is not None and high is not None and max(abs(low), abs(high)) < _OF_ROUNDING
    return "the same, rounded" if finding == NOT_SHOWN and against == LIVE and is_rounding else finding


def how_much(found: Comparison) -> str:
    """The change of the perplexity and its interval: '16.1% lower (95% interval 15.2% to 17.0%)'."""
    if found.finding == SAME:
        return "the same"
    change = f"{percent(found.change)} {'lower' if found.nats < 0 else 'higher'}"
    if change.startswith(NOTHING):
        change = "about the same"
    if found.interval is None:
        return f"{change} (too little text for an interval)"
    low, high = found.interval
    near, far = sorted((low, high), key=abs)
    ends = f"{percent(near)} to {percent(far)}"
    if low * high <= 0 or near * found.nats <= 0 or change.startswith("about"):
        ends = " to ".join(f"{percent(end)} {'lower' if end < 0 else 'higher'}" for end in (low, high))
    return f"{change} (95% interval {ends}{', for this text only' if found.of_this_text else ''})"


@dataclass(frozen=True)
class Calls:
    """How the commands of hints begin: train in this workspace, evaluate again, evaluate another text."""

    train: str = "scone train-fgram"
    evaluate: str = "scone eval"
    evaluate_text: str = "scone eval"

    @classmethod
    def of(cls, results: Results) -> Calls:
        """The calls of an evaluation; bare commands where it has none."""
        return cls(**results.get("method", {}).get("calls", {}))

    def for_a_rival(self, kind: str = "plain", options: str = "") -> str:
        """The commands that train a rival and evaluate it beside the arms that were measured."""
        return f"{self.train} --kind {kind}{options} --out DIR, then {self.evaluate} --against DIR"
