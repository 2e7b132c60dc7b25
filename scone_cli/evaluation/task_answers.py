"""Keep the scores of every arm on every task item, and compare the arm `table` with the others, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scone_cli.arrays import F64
from scone_cli.evaluation import metrics
from scone_cli.evaluation.metrics import LEAST_CLUSTERS, Estimate
from scone_cli.evaluation.result_types import TaskDifference
from scone_cli.evaluation.results import BETTER, NOT_SHOWN, TOO_FEW, WORSE


class Answers:
    """The scores of each task, metric, arm and item, for metrics that are means over items."""

    def __init__(self) -> None:
        self._scores: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
        self._higher_is_better: dict[tuple[str, str], bool] = {}

    def add(self, arm: str, found: Mapping[str, Any]) -> None:
        """Add one arm's results of lm-evaluation-harness (`found`, with its samples)."""
        for task, samples in (found.get("samples") or {}).items():
            for key, value in found["results"][task].items():
                metric, _, chosen = key.partition(",")
                here = [sample for sample in samples if chosen == sample.get("filter", chosen)]
                scores = {sample["doc_id"]: sample.get(metric) for sample in here}
                if not scores or not all(
                    isinstance(score, int | float | bool | np.number) for score in scores.values()
                ):
                    continue
                if math.isclose(sum(map(float, scores.values())) / len(scores), value, rel_tol=1e-9, abs_tol=1e-12):
                    name = metric if chosen == "none" else f"{metric} ({chosen})"
                    self._scores.setdefault((task, name), {})[arm] = {
                        item: float(score) for item, score in scores.items()
                    }
                    direction = (found.get("higher_is_better") or {}).get(task) or {}
                    self._higher_is_better[task, name] = bool(direction.get(metric, True))

    def differences(self, own: str) -> list[TaskDifference]:
        """The mean score of arm `own` minus that of each other arm, with a standard error and a 95% interval."""
        rows = list[TaskDifference]()
        for (task, metric), by_arm in self._scores.items():
            for arm, scores in by_arm.items():
                if own in by_arm and arm != own and scores.keys() == by_arm[own].keys():
                    values = np.array([by_arm[own][item] - scores[item] for item in scores])
                    rows.append(_difference(task, metric, own, arm, values, self._higher_is_better[task, metric]))
        return rows


def _difference(task: str, metric: str, own: str, against: str, values: F64, higher_is_better: bool) -> TaskDifference:
    """Mean, standard error and interval of score differences [N] of independent items.

    The error is None for fewer than ten items, and where no item differs: that does not mean an error of 0.
    """
    n, mean = values.size, float(values.mean())
    is_few = n < LEAST_CLUSTERS
    stderr = float(values.std(ddof=1)) / math.sqrt(n) if values.any() and not is_few else None
    low, high = metrics.interval(Estimate(mean, stderr, n), n) or (None, None)
    finding = TOO_FEW if is_few else NOT_SHOWN
    if low is not None and high is not None and (low > 0 or high < 0):
        finding = BETTER if (low > 0) == higher_is_better else WORSE
    return {
        "task": task,
        "metric": metric,
        "arm": own,
        "against": against,
        "difference": mean,
        "stderr": stderr,
        "low": low,
        "high": high,
        "n": n,
        "finding": finding,
    }
