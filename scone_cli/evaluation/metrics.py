"""The metrics of an evaluation. Each is one short function that says what is divided by what: arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import F64

# Beyond it `exp` overflows a float64, as for a "word" of hundreds of tokens in text without blanks.
_LARGEST_EXPONENT = 700.0
LEAST_CLUSTERS = 10  # documents, blocks of text or items: with fewer, standard errors are far too small


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error (None for a single document), and the number of tokens behind it."""

    value: float
    stderr: float | None
    n: int


def ratio_of_totals(numerators: F64, denominators: F64) -> tuple[float, float | None]:
    """sum(numerators) / sum(denominators) over documents [D], with a standard error clustered by document.

    Tokens of one document are not independent, documents nearly are: so the error comes from how far each document's
    total lies from what the overall ratio predicts for its size (the linearised ratio estimator). Empty documents do not count:
    a single document that is not empty has no error, which is not an error of 0.
    """
    total, count = float(denominators.sum()), int(((numerators != 0) | (denominators != 0)).sum())
    if total == 0:
        return math.nan, None
    ratio = float(numerators.sum()) / total
    if count < 2:
        return ratio, None
    spread = numerators - ratio * denominators
    return ratio, math.sqrt(float((spread**2).sum()) * count / (count - 1)) / total


def nats_per_token(nats: F64, tokens: F64) -> Estimate:
    """Total -ln p over total tokens; both by document [D]."""
    return Estimate(*ratio_of_totals(nats, tokens), int(tokens.sum()))


def perplexity(nats: F64, tokens: F64) -> Estimate:
    """Exponential of the nats per token; its error to first order: value * error of the exponent."""
    mean = nats_per_token(nats, tokens)
    value = math.exp(min(mean.value, _LARGEST_EXPONENT))
    return Estimate(value, None if mean.stderr is None else value * mean.stderr, mean.n)


def word_perplexity(nats: F64, words: F64, tokens: F64) -> Estimate:
    """Exponential of the total -ln p over total words; a word is what stands between white space."""
    mean, stderr = ratio_of_totals(nats, words)
    value = math.exp(min(mean, _LARGEST_EXPONENT))
    return Estimate(value, None if stderr is None else value * stderr, int(tokens.sum()))


def bits_per_byte(nats: F64, num_bytes: F64, tokens: F64) -> Estimate:
    """Total -log2 p over total UTF-8 bytes: comparable between tokenizers."""
    value, stderr = ratio_of_totals(nats / math.log(2), num_bytes)
    return Estimate(value, stderr, int(tokens.sum()))


def interval(estimate: Estimate, clusters: int) -> tuple[float, float] | None:
    """The 95% confidence interval of a mean whose error comes from so many clusters; None for fewer than two.

    By Student's distribution, because few clusters tell little about how much clusters differ.
    """
    if estimate.stderr is None or clusters < 2:
        return None
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, and far quicker to load

    reach = float(stdtrit(clusters - 1, 0.975)) * estimate.stderr
    return estimate.value - reach, estimate.value + reach


def per_document(values: npt.NDArray[np.floating | np.bool_], starts: npt.NDArray[np.int64]) -> F64:
    """Sum of `values` [N] over each document [starts[d], starts[d + 1])."""
    sums = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
    totals: F64 = sums[starts[1:]] - sums[starts[:-1]]
    return totals
