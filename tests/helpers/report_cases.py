"""Results of evaluations that never were, in the schema of results.json, as realistic as their page needs."""

import math

from scone_cli.evaluation.break_even import Prices, contender
from scone_cli.evaluation.payback import payback

CORPORA = ("held-out", "wiki", "law")
# nats a token on the first corpus, resident parameters, training FLOPs
ARMS = {
    "plain-1x": (4.2561, 614_976, 1.45e13),
    "plain-2.5x": (4.1164, 1_180_432, 2.78e13),
    "live": (3.7486, 614_976, 3.41e13),
    "table": (3.7486, 614_976, 3.41e13),
    "none": (6.4121, 614_976, 3.41e13),
}
MANY_ARMS = ARMS | {
    "hashed-1x": (3.7948, 614_976, 1.45e13),
    "plain-4x": (4.1061, 1_672_320, 3.94e13),
    "table:int8": (3.7493, 614_976, 3.41e13),
}
HOSTILE = (
    "</td><script>alert(1)</script>",
    "\x1b[31m\x00red",
    "\u202eevil\u202c \u05d0\u05d1\u05d2",
    "a\"b'&amp;",
    "\udce2 no Unicode",
)
BYTES_A_TOKEN, TOKENS_A_WORD, ROWS, DIM = 2.92, 2.1, 1_411_720, 96


def results(corpora=CORPORA, arms=ARMS, shift=None, documents=646, has_bytes=True, folders=(), texts=(" the", " of")):
    """Everything there can be. `shift` are nats added to the table's loss, by corpus: above 0.55 it loses to all."""
    shift = shift or {}
    found = {"schema_version": 2, "method": method(corpora, arms, documents, has_bytes)}
    names = [*corpora, *(f"{corpora[0]}/{folder}" for folder in folders)]
    losses = {name: corpus_losses(name, i, arms, shift) for i, name in enumerate(names)}
    found["clusters"] = [
        {"corpus": name, "by": "documents" if documents >= 30 else "blocks", "number": documents}
        | {"mean_tokens": 900_000 // documents}
        for name in names
    ]
    found["results"] = [row for name in names for row in quality(name, losses[name], documents, has_bytes)]
    found["differences"] = [
        difference(name, arm, losses[name], documents) for name in names for arm in arms if arm != "table"
    ]
    found["match_lengths"] = [row for name in corpora for row in match_lengths(name, losses[name])]
    found["hit_rates"] = [
        {"corpus": name, "hit_rate": 0.84 - 0.11 * (i % 4), "mean_match_length": 3.1 - 0.2 * (i % 4), "n": 900_000}
        for i, name in enumerate(names)
    ]
    found["tail"] = [row for name in corpora for row in tail(name, losses[name], documents)]
    found["terms"] = [row for name in corpora[:1] for row in terms(name, losses[name], documents)]
    found["tokens"] = [row for name in corpora for row in gains(name, "token", texts)]
    found["fgrams"] = [row for name in corpora for row in gains(name, "fgram", texts)]
    found["tasks"] = [
        {"task": task, "arm": arm, "metric": "acc", "value": 0.31 + i / 90, "stderr": 0.014, "n": 1000, "version": 1}
        for task in ("piqa", "arc_easy")
        for i, arm in enumerate(arms)
    ]
    found["task_differences"] = [
        {"task": task, "metric": "acc", "arm": "table", "against": arm, "difference": 0.031, "stderr": 0.012}
        | {"low": 0.007, "high": 0.055, "n": 1000, "finding": "better"}
        for task in ("piqa", "arc_easy")
        for arm in arms
        if arm != "table" and "table" in arms
    ]
    found["cost"] = [cost(arm, *arms[arm][1:]) for arm in arms]
    found["speed"] = [row for arm in arms for row in speed(arm, arms[arm][1])]
    found["latency"] = [row for arm in arms for row in latency(arm, arms[arm][1])]
    found["lookup"] = [
        {"placement": placement, "batch": batch, "median_us": base / batch**0.4, "p99_us": 2.2 * base / batch**0.4}
        for placement, base in (("ram", 3.4), ("mmap", 5.9))
        for batch in (1, 16, 4096)
    ]
    found["peak_memory_bytes"] = 3_412_000_000
    found["ladder"] = [row for name in corpora[:1] for row in ladder(name, losses[name].get("table", 4.0))]
    found["payback"] = pays(found["cost"], losses[corpora[0]])
    found["checks"] = [
        {"condition": "table.ppl > live.ppl * 1.001", "left": 42.46, "right": 42.5, "holds": False},
    ]
    return found


def minimum():
    """What `scone eval` gives at least: one corpus, a model without a table, no bytes, nothing measured."""
    everything = results(corpora=("held-out",), arms={"live": ARMS["plain-1x"]}, documents=1, has_bytes=False)
    kept = ("schema_version", "method", "results")
    return {key: everything[key] if key in kept else [] for key in everything} | {"payback": None}


def method(corpora, arms, documents, has_bytes):
    marks = {arm: f"{i:x}" * 64 for i, arm in enumerate(arms, start=1)}
    return {
        "scone": "0.1.0",
        "corpora": [
            {"corpus": name, "documents": documents, "tokens": 900_000, "in_training_split": int(name == "wiki") * 2}
            | {"bytes": 2_628_000 if has_bytes else None, "words": 428_571 if has_bytes else None}
            | {"characters_a_word": 5.1 if has_bytes else None, "unspaced_share": 0.0 if has_bytes else None}
            for name in corpora
        ],
        "window": 512,
        "stride": 512,
        "tokenizer": "ab" * 32,
        "models": {arm: mark for arm, mark in marks.items() if not arm.startswith("table")},
        "tables": {
            arm: {"fingerprint": marks[arm], "dtype": arm.partition(":")[2] or "float16", "rows": ROWS}
            for arm in arms
            if arm.startswith("table")
        },
        "commands": [
            "scone count-ngrams corpus --vocab-size 2048",
            "scone select-vocab --size auto",
            "scone train-fgram --dim 96 --layers 2",
            "scone precompute",
            "scone eval wiki law.jsonl.zst --against arms/plain-1x --against arms/plain-2.5x --ladder",
        ],
        "seconds": 1312.0,
    }


def corpus_losses(name, number, arms, shift):
    """Nats a token of every arm: foreign text is harder, and the table gains less on it."""
    harder, less = 0.21 * number, 0.09 * number
    gains_here = {"live", "table", "hashed-1x"}
    return {
        arm: loss + harder + (less + shift.get(name, 0.0)) * (arm in gains_here or arm.startswith("table"))
        for arm, (loss, *_) in arms.items()
    }


def quality(name, losses, documents, has_bytes):
    one = documents == 1
    for arm, loss in losses.items():
        values = {"nats_per_token": loss, "perplexity": math.exp(loss)}
        if has_bytes:
            values["word_perplexity"] = math.exp(loss * TOKENS_A_WORD)
            values["bits_per_byte"] = loss / math.log(2) / BYTES_A_TOKEN
        for metric, value in values.items():
            error = None if one else value * 0.009 if metric != "nats_per_token" else 0.0312
            row = {"arm": arm, "corpus": name, "metric": metric, "value": value, "stderr": error, "n": 900_000}
            yield row | {"seconds": 61.5 if "/" not in name else None}


def interval(nats, documents, width=0.03):
    """Difference, error, ends and finding as `eval` gives them; one document has no error, so nothing is shown."""
    if documents == 1:
        return {"nats_per_token": nats, "stderr": None, "low": None, "high": None, "finding": "no difference shown"}
    stderr = 0.004 + width * abs(nats)
    low, high = nats - 1.96 * stderr, nats + 1.96 * stderr
    finding = "better" if high < 0 else "worse" if low > 0 else "no difference shown"
    return {"nats_per_token": nats, "stderr": stderr, "low": low, "high": high, "finding": finding}


def difference(name, arm, losses, documents):
    found = interval(losses["table"] - losses[arm], documents) if "table" in losses else interval(0.0, documents)
    return {"arm": "table", "against": arm, "corpus": name, "n": 900_000} | found


def match_lengths(name, losses):
    """The longer the match, the larger the gain; without one there is a small loss."""
    for length, share, factor in ((0, 0.19, -0.04), (2, 0.24, 0.7), (3, 0.27, 1.1), (4, 0.18, 1.5), (5, 0.12, 2.4)):
        at = {arm: 5.4 - 0.5 * length - factor * (5.5 - loss) / 2 for arm, loss in losses.items()}
        yield {"corpus": name, "match_length": length, "share": share, "n": int(share * 900_000), "losses": at}


def tail(name, losses, documents):
    ends = [(0, 0), (1, 9), (10, 99), (100, 999), (1000, 9999), (10_000, 99_999), (100_000, 999_999)]
    for i, (first, last) in enumerate(ends):
        at = {arm: 11.5 - 1.3 * i + 0.6 * (loss - 4.2) * (i - 1) for arm, loss in losses.items()}
        rows = [
            {"against": arm} | interval(at["table"] - at[arm], documents, 0.1 + 0.5 / (i + 1))
            for arm in at
            if arm != "table" and "table" in at
        ]
        share = (0.0001, 0.0012, 0.011, 0.083, 0.3, 0.4, 0.2047)[i]
        row = {"corpus": name, "first": first, "last": last, "share": share, "n": int(share * 900_000), "losses": at}
        yield row | {"differences": [{k: v for k, v in row.items() if k != "finding"} for row in rows]}


def terms(name, losses, documents):
    """All together, two that occur, one that does not."""
    for term, occurrences, gain in ((None, 310, 0.2), ("due process", 300, 0.3), ("\u88c1\u5224\u6240", 10, 0.1)):
        at = {arm: loss - gain * (arm == "table") for arm, loss in losses.items()}
        rows = [
            {"against": arm} | interval(at["table"] - at[arm], documents, 0.2)
            for arm in at
            if arm != "table" and "table" in at
        ]
        row = {
            "corpus": name,
            "term": term,
            "occurrences": occurrences,
            "n": 3 * occurrences,
            "share": occurrences / 3e5,
        }
        row |= {"hit_rate": 0.9, "losses": at, "stderrs": dict.fromkeys(at, None if documents == 1 else 0.05)}
        yield row | {"differences": rows}
    nothing = {"losses": {}, "stderrs": {}, "differences": []}
    yield {"corpus": name, "term": "a,b", "occurrences": 0, "n": 0, "share": 0.0, "hit_rate": None} | nothing


def gains(name, kind, texts):
    for direction, sign in (("gain", -1), ("loss", 1)):
        for i, text in enumerate(texts):
            number, nats = 4200 - 310 * i, sign * (2100.0 - 260 * i) / (3 if sign > 0 else 1)
            row = {"corpus": name, "against": "plain-1x", "direction": direction, "text": text, "n": number}
            if kind == "token":
                before = f"in the matter{text}" if i % 2 == 0 else None
                row |= {"token": 260 + i, "table": 3.2 + nats / number, "against_loss": 3.2, "before": before}
            else:
                row |= {"fgram": 17 * i, "nats_per_use": nats / number}
            yield row | {"nats": nats}


def cost(arm, parameters, training):
    row = {"arm": arm, "resident_parameters": parameters, "resident_bytes": 4 * parameters}
    row |= dict.fromkeys(("offloaded_rows", "offloaded_bytes_ram", "offloaded_bytes_disk", "index_bytes"), 0)
    if arm.startswith("table"):
        width = 1 if arm.endswith("int8") else 2
        row |= {"offloaded_rows": ROWS, "offloaded_bytes_ram": ROWS * DIM * width + 22_587_520}
        row |= {"offloaded_bytes_disk": ROWS * DIM * width + 900_000, "index_bytes": 22_587_520}
    flops = 2.0 * parameters
    row |= {"prefill_flops": flops, "decode_flops": 1.03 * flops, "kv_bytes_a_token": 1536, "training_flops": training}
    return row


def pays(costs, losses, **prices):
    """The real thing, as every number of it is worked out from losses and costs."""
    contenders = {row["arm"]: contender(row, losses[row["arm"]]) for row in costs}
    rivals = [each for arm, each in contenders.items() if arm.startswith("plain")]
    return payback(contenders["table"], rivals, Prices(**prices)) if "table" in contenders else None


def speed(arm, parameters):
    for placement in ("ram", "mmap") if arm.startswith("table") else (None,):
        for phase, factor in (("prefill", 9.0), ("decode", 1.0)):
            for batch in (1, 8, 64):
                rate = factor * 1.1e9 / parameters * batch**0.8 * (0.96 if placement == "mmap" else 1)
                row = {"arm": arm, "placement": placement, "phase": phase, "batch": batch, "repeats": 5}
                yield row | {"tokens_a_second": rate}


def latency(arm, parameters):
    for placement in ("ram", "mmap") if arm.startswith("table") else (None,):
        row = {"arm": arm, "placement": placement, "prompt_tokens": 256, "prompts": 40, "tokens": 900}
        times = {"first_token_ms": parameters / 3e5, "first_token_p99_ms": None}
        yield row | times | {"latency_ms": parameters / 1e6, "latency_p99_ms": parameters / 5e5}


def ladder(name, best):
    for i, rows in enumerate([0, 1000, 10_000, 100_000, 1_000_000, ROWS]):
        loss = best + 0.62 * (1 - i / 5) ** 2
        row = {"corpus": name, "rows": rows, "bytes": rows * (2 * DIM + 16), "nats_per_token": loss, "stderr": 0.031}
        row |= {"bits_per_byte": loss / math.log(2) / BYTES_A_TOKEN, "perplexity": math.exp(loss)}
        yield row | {"hit_rate": 0.84 * (i / 5) ** 0.5, "is_knee": i == 3}
