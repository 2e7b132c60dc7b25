"""`--fail-if`: conditions on the results of an evaluation, such as `table.ppl > live.ppl * 1.001`.

A condition is one comparison (`<`, `<=`, `>`, `>=`) of two sides made of numbers, `+ - * /`, parentheses and names. A name is an
arm and a metric, `table.ppl` or `plain-1x.bpb`; where there are several corpora, or for a folder of one, with the corpus in
brackets: `table.ppl[law]`. Latencies (`table.latency_p99_ms`, with the table mapped) have no corpus. A condition is parsed as
Python but never run: only these few kinds of nodes are worked out.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scone_cli.errors import BadSetting
from scone_cli.evaluation.result_types import Check, Results
from scone_cli.formatting import did_you_mean

# The names of metrics in conditions, and in results.json.
METRICS: Mapping[str, str] = {
    "ppl": "perplexity",
    "word_ppl": "word_perplexity",
    "bpb": "bits_per_byte",
    "nats": "nats_per_token",
    "hit_rate": "hit_rate",
    "latency_ms": "latency_ms",
    "latency_p99_ms": "latency_p99_ms",
    "first_token_ms": "first_token_ms",
    "first_token_p99_ms": "first_token_p99_ms",
}
LATENCIES = tuple(name for name in METRICS if name.endswith("_ms"))  # measured once, not per corpus
_COMPARISONS: Mapping[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OPERATIONS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 500  # characters of a condition: nesting that is too deep for Python to parse takes more
_PLACEHOLDER = "name_{}_"

# The value of (arm, metric, corpus): the metric by its name in results.json; None where it is not known.
Values = Mapping[tuple[str, str, str], float | None]


def values_of(results: Results) -> Values:
    """All values that a condition may ask for; of a table in two places, the latencies of the mapped one."""
    values: dict[tuple[str, str, str], float | None] = {
        (row["arm"], row["metric"], row["corpus"]): row["value"] for row in results["results"]
    }
    for arm in results["method"]["tables"]:
        values |= {(arm, "hit_rate", row["corpus"]): row["hit_rate"] for row in results["hit_rates"]}
    for row in results["latency"]:
        if row["placement"] != "ram":
            values[row["arm"], "latency_ms", ""] = row["latency_ms"]
            values[row["arm"], "latency_p99_ms", ""] = row["latency_p99_ms"]
            values[row["arm"], "first_token_ms", ""] = row["first_token_ms"]
            values[row["arm"], "first_token_p99_ms", ""] = row["first_token_p99_ms"]
    return values


@dataclass(frozen=True)
class Name:
    """A name in a condition: an arm, a metric, and a corpus if there is one."""

    arm: str
    metric: str
    corpus: str | None
    text: str


@dataclass(frozen=True)
class Condition:
    """A parsed condition."""

    text: str
    left: ast.expr
    right: ast.expr
    compare: Callable[[float, float], bool]
    names: Mapping[str, Name]

    def check(self, values: Values, corpora: Sequence[str]) -> Check:
        """Both sides and whether it holds, as a row of `checks`.

        Raises:
            BadSetting: a name has no value, or one per corpus; a division by zero; a side that is not finite.
        """

        def look_up(name: str) -> float:
            return self._look_up(self.names[name], values, corpora)

        left, right = (_worked_out(side, self.text, look_up) for side in (self.left, self.right))
        if not (math.isfinite(left) and math.isfinite(right)):  # a comparison with that would never hold
            raise BadSetting(f"--fail-if '{self.text}': compares {left:g} with {right:g}")
        return {"condition": self.text, "left": left, "right": right, "holds": self.compare(left, right)}

    def check_corpora(self, corpora: Sequence[str]) -> None:
        """Refuse a corpus that is not evaluated, before any work; which folders a corpus has is not known yet.

        Raises:
            BadSetting: a name has an unknown corpus, or none while there are several.
        """
        for name in self.names.values():
            corpus = self._corpus_of(name, corpora)
            if name.metric not in LATENCIES and not any(
                corpus == known or corpus.startswith(f"{known}/") for known in corpora
            ):
                raise self._not_known(name, corpus, corpora)

    @property
    def needs_speed(self) -> bool:
        """Whether it asks for a latency, which `--no-speed` leaves out."""
        return any(name.metric in LATENCIES for name in self.names.values())

    def _look_up(self, name: Name, values: Values, corpora: Sequence[str]) -> float:
        corpus, asked = self._corpus_of(name, corpora), (name.arm, METRICS[name.metric])
        value = values.get((*asked, corpus))
        if value is None:
            known = [where for (*what, where), each in values.items() if tuple(what) == asked and each is not None]
            raise self._not_known(name, corpus, known)
        return value

    def _corpus_of(self, name: Name, corpora: Sequence[str]) -> str:
        if name.metric in LATENCIES:
            if name.corpus is not None:
                raise BadSetting(
                    f"--fail-if '{self.text}': {name.text} names a corpus, but a latency has none",
                    f"say {name.arm}.{name.metric}",
                )
            return ""
        if name.corpus is None and len(corpora) > 1:
            raise BadSetting(
                f"--fail-if '{self.text}': {name.text} has a value for each of {len(corpora)} corpora ({', '.join(corpora)})",
                f"say which: {name.text}[{corpora[0]}]",
            )
        return corpora[0] if name.corpus is None else name.corpus

    def _not_known(self, name: Name, corpus: str, known: Sequence[str]) -> BadSetting:
        if name.metric in LATENCIES:
            return BadSetting(
                f"--fail-if '{self.text}': {name.text} was not measured",
                "a 99th percentile needs 100 measurements, and there was no time for so many: ask for the median, latency_ms",
            )
        hint = f"it was measured on: {', '.join(known)}" if known else None
        return BadSetting(f"--fail-if '{self.text}': {name.text} was not measured on '{corpus}'", hint)


def _worked_out(side: ast.expr, text: str, look_up: Callable[[str], float]) -> float:
    """The value of an expression that `_check` has passed.

    Raises:
        BadSetting: a division by zero, a number that is too large.
    """

    def value_of(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.Name(id=name):
                return look_up(name)
            case ast.UnaryOp(operand=operand):
                return -value_of(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATIONS[type(op)](value_of(left), value_of(right))
        raise AssertionError(ast.dump(node))

    try:
        return value_of(side)
    except (ZeroDivisionError, OverflowError) as error:
        raise BadSetting(f"--fail-if '{text}': {error}") from error


def arms_named(text: str) -> list[str]:
    """Possible names of arms in a condition, where the arms are not known yet: what stands before a dot and a word."""
    found = re.findall(r"(?<![\w.])(\w[^\s()*/+<>=\[\]]*?)\.[A-Za-z_]\w*(?![\w.])", text)
    return [name for name in found if not name.isdigit()]  # 1.e5 is a number


def parse(text: str, arms: Sequence[str]) -> Condition:
    """Parse a condition on these arms.

    Raises:
        BadSetting: it is no comparison of numbers and names, or names an unknown arm or metric.
    """
    if len(text) > LONGEST:
        raise BadSetting(f"--fail-if: a condition of {len(text):,} characters, expected at most {LONGEST}")
    names: dict[str, Name] = {}

    def replace(found: re.Match[str]) -> str:
        name = Name(found["arm"], found["metric"], found["corpus"], found[0])
        if name.metric not in METRICS:
            raise BadSetting(
                f"--fail-if '{text}': no metric '{name.metric}' of arm '{name.arm}'",
                f"{_meant(name.metric, METRICS)}known metrics: {', '.join(METRICS)}",
            )
        placeholder = _PLACEHOLDER.format(len(names))
        names[placeholder] = name
        return placeholder

    # Arms first, because their names may be no Python names: plain-1x, table:int8. The longest name that fits counts.
    known = "|".join(re.escape(arm) for arm in sorted(arms, key=len, reverse=True))
    pattern = rf"(?<![\w.])(?P<arm>{known})\.(?P<metric>\w+)(?:\[(?P<corpus>[^\]]*)\])?"
    try:
        body = ast.parse(re.sub(pattern, replace, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        unknown = next(
            (arm for arm in arms_named(text) if arm not in arms), None
        )  # such as plian-1x, which is no Python name
        why = f"no arm '{unknown}'" if unknown else "it cannot be read"
        raise _not_understood(text, why, arms, _meant(unknown or "", arms)) from error
    match body:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            for side in (left, right):
                _check(side, text, arms, names)
            return Condition(text, left, right, _COMPARISONS[type(op)], names)
    raise _not_understood(text, "expected one comparison with <, <=, > or >=", arms)


def _check(node: ast.expr, text: str, arms: Sequence[str], names: Mapping[str, Name]) -> None:
    """Raise unless `Condition.check` can work out the expression."""
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            pass
        case ast.Name(id=name) if name in names:
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, text, arms, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _check(left, text, arms, names)
            _check(right, text, arms, names)
            if isinstance(op, ast.Div) and not any(isinstance(each, ast.Name) for each in ast.walk(right)):
                _worked_out(ast.BinOp(ast.Constant(1.0), op, right), text, lambda _: 0.0)  # by zero: before any work
        case ast.Attribute(value=ast.Name(id=arm)) if arm not in names:
            raise _not_understood(text, f"no arm '{arm}'", arms, _meant(arm, arms))
        case _:
            written = re.sub(
                r"name_\d+_", lambda found: names[found[0]].text if found[0] in names else found[0], ast.unparse(node)
            )
            raise _not_understood(text, f"'{written}' is neither a number nor ARM.METRIC", arms)


def _meant(word: str, known: Iterable[str]) -> str:
    meant = did_you_mean(word, known)
    return f"{meant} " if meant else ""


def _not_understood(text: str, why: str, arms: Sequence[str], meant: str = "") -> BadSetting:
    return BadSetting(
        f"--fail-if '{text}': {why}",
        f"{meant}such as 'table.ppl > live.ppl * 1.001'; arms: {', '.join(arms)}; metrics: {', '.join(METRICS)}",
    )
