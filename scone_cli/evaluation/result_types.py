"""The types of `results.json`: what an evaluation measures and judges, and what its page and its verdict read.

Losses are nats per token. A difference is the loss of the table minus the loss of another arm: below zero the table is
better. What is not known is None (null in JSON). `docs/evaluation.md` holds the same as tables, which a test makes from this
file: from the docstrings, and from the comment behind each key.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict, final


class Results(TypedDict, total=False):
    """Everything that `scone eval` writes to `results.json`. Sections of which nothing was asked or measured are empty."""

    schema_version: int  # version of these keys: 2
    method: Method
    results: list[Metric]
    clusters: list[Clustering]
    differences: list[Difference]
    match_lengths: list[MatchLength]
    hit_rates: list[HitRate]
    tail: list[TokenClass]
    terms: list[Term]
    tokens: list[TokenGain]
    fgrams: list[FgramGain]
    ladder: list[Rung]
    tasks: list[TaskScore]
    task_differences: list[TaskDifference]
    cost: list[ArmCost]
    speed: list[Speed]
    latency: list[Latency]
    lookup: list[Lookup]
    peak_memory_bytes: int | None  # most memory of the evaluation itself, all its arms loaded; null without `--speed`
    payback: Payback | None
    verdict: str  # what the table gains, what it costs, whether it pays
    checks: list[Check]


# ---- what was compared -------------------------------------------------------------------------------------------


class Method(TypedDict, total=False):
    """What was compared, on which text, and the commands that repeat it."""

    corpora: list[Corpus]
    window: int  # tokens of a window: the context length of the model
    stride: int  # tokens from one window to the next; equal to `window`, so every token is predicted once
    seconds: float  # time that measuring took
    scone: str  # version of scone
    tokenizer: str  # hash of the tokenizer; empty where there is none
    models: dict[str, str]  # fingerprint of the model, by arm
    training_unknown: list[
        str
    ]  # rivals of which it is not known what they were trained on; absent without such a rival
    trained_on_other_tokens: list[
        str
    ]  # models (`model`: the workspace's) whose tokens/ was made anew since; else absent
    tables: dict[str, TableFacts]  # one object per arm that reads a table
    commands: list[str]  # the commands that repeat the evaluation, from the corpus on
    calls: dict[str, str]  # how the hints call scone: `train`, `evaluate`, `evaluate_text`


class Corpus(TypedDict):
    """One text that was evaluated."""

    corpus: str  # its name; `held-out` for the held-out documents
    documents: int  # number of documents
    tokens: int  # number of tokens
    bytes: int | None  # UTF-8; null for token ids without a byte-level tokenizer
    words: int | None  # what stands between white space; null where blanks do not separate words
    characters_a_word: float | None  # mean length of a word
    unspaced_share: float | None  # share of the characters that belong to a script without blanks, such as Chinese
    in_training_split: int  # documents that are also in the training text: the models have learned from them
    share_of_bytes_without_token: NotRequired[float]  # only if the tokenizer has no token for some bytes
    share_of_tokens_unknown: NotRequired[float]  # only if some tokens are the unknown token


class TableFacts(TypedDict):
    """One table that was read."""

    fingerprint: str  # fingerprint of the table
    dtype: str  # format of its rows
    rows: int  # number of its rows


# ---- how well the arms predict -----------------------------------------------------------------------------------


class Metric(TypedDict):
    """One metric of one arm, on a corpus or on a folder in it."""

    arm: str  # name of the arm
    corpus: str  # `corpus` or `corpus/folder`
    metric: str  # `nats_per_token`, `perplexity`, `word_perplexity`, `bits_per_byte`
    value: float  # value of the metric
    stderr: float | None  # standard error; null where the text is too short for one
    n: int  # tokens
    seconds: float | None  # time that the arm took; null for a folder


class Clustering(TypedDict):
    """What the standard errors on a corpus or folder are clustered by."""

    corpus: str  # `corpus` or `corpus/folder`
    by: str  # `documents`; `blocks` of text where there are fewer than 30 documents
    number: int  # clusters
    mean_tokens: int  # mean size of a cluster


class Interval(TypedDict):
    """A difference in nats per token, paired token by token, with its 95% interval."""

    nats_per_token: float  # table minus `against`
    stderr: float | None  # standard error
    low: float | None  # the 95% interval; null where the text is too short for one
    high: float | None  # end of the interval


class Difference(Interval):
    """The table against one other arm, on a corpus or folder."""

    arm: str  # `table`
    against: str  # the other arm
    corpus: str  # `corpus` or `corpus/folder`
    n: int  # tokens
    finding: str  # `better`, `worse`, `the same` (equal but for rounding), `no difference shown`


# ---- where the table gains ---------------------------------------------------------------------------------------


class MatchLength(TypedDict):
    """The loss by the length of the f-gram that is matched where a token is predicted."""

    corpus: str  # name of the corpus
    match_length: int  # tokens of the f-gram; 0: none was matched
    share: float  # of all tokens
    n: int  # tokens
    losses: dict[str, float]  # nats per token, by arm


class HitRate(TypedDict):
    """How often an f-gram is matched."""

    corpus: str  # `corpus` or `corpus/folder`
    hit_rate: float  # share of the tokens at which an f-gram is matched
    mean_match_length: float | None  # tokens of a match
    n: int  # tokens


class TailDifference(Interval):
    """The table against one rival, on the tokens of one class."""

    against: str  # the other arm


class TokenClass(TypedDict):
    """The loss by how often the predicted token occurs in the training text."""

    corpus: str  # name of the corpus
    first: int  # fewest occurrences in the training text of a token of this class
    last: int  # most occurrences
    share: float  # of all tokens
    n: int  # tokens
    losses: dict[str, float]  # nats per token, by arm
    differences: list[TailDifference]


class TermDifference(TailDifference):
    """The table against one other arm, on the tokens inside terms."""

    finding: str  # as in `differences`, or `too few`: the term occurs in fewer than 10 documents or blocks


class Term(TypedDict):
    """The loss on the tokens inside the terms of `--terms`: of all terms together, and of each."""

    corpus: str  # name of the corpus
    term: str | None  # null: all terms together
    occurrences: int  # how often it occurs
    n: int  # tokens inside
    share: float  # of all tokens
    hit_rate: float | None  # share of the tokens inside at which an f-gram is matched
    losses: dict[str, float]  # nats per token, by arm
    stderrs: dict[str, float | None]  # by arm
    differences: list[TermDifference]


class Gain(TypedDict):
    """How much the table and one rival differ, summed over a corpus."""

    corpus: str  # name of the corpus
    against: str  # the rival, or `none`
    direction: str  # `gain`: the table is better; `loss`: it is worse
    text: str  # the token or f-gram as text
    n: int  # occurrences
    nats: float  # table minus `against`, summed


class TokenGain(Gain):
    """The predicted tokens on which the table gains and loses most."""

    token: int  # token id
    table: float  # nats per occurrence, table
    against_loss: float  # nats per occurrence, rival
    before: str | None  # an example of the text before the token; null where there is none


class FgramGain(Gain):
    """The f-grams after which the table gains and loses most."""

    fgram: int  # number of its row
    nats_per_use: float  # table minus `against`, mean


class Rung(TypedDict):
    """With `--ladder`: a table of only the first rows."""

    corpus: str  # name of the corpus
    rows: int  # number of rows
    bytes: int  # bytes of its rows and its index
    nats_per_token: float  # loss with this table
    stderr: float | None  # its standard error
    bits_per_byte: float | None  # null where no bytes are known
    perplexity: float  # perplexity with this table
    hit_rate: float  # share of the tokens at which one of these f-grams is matched
    is_knee: bool  # beyond this size more bytes gain little


# ---- tasks -------------------------------------------------------------------------------------------------------


class TaskScore(TypedDict):
    """One metric of one arm on a task of lm-evaluation-harness."""

    task: str  # name of the task
    arm: str  # name of the arm
    metric: str  # name of the metric, as the harness has it
    value: float | None  # the score
    stderr: float | None  # standard error; null where the harness knows none
    n: int | None  # items; null for a group of tasks
    version: str  # of the task
    cut: int  # requests whose context was longer than the model's, and was cut on the left


class TaskDifference(TypedDict):
    """The score of the table minus that of another arm, paired item by item."""

    task: str  # name of the task
    metric: str  # name of the metric
    arm: str  # `table`
    against: str  # the other arm
    difference: float  # mean over the items
    stderr: float | None  # null for fewer than 10 items, or where both answer every item alike
    low: float | None  # the 95% interval
    high: float | None  # end of the interval
    n: int  # items
    finding: str  # `better`, `worse`, `no difference shown`, `too few`: fewer than 10 items


# ---- what the arms cost ------------------------------------------------------------------------------------------


@final
class ArmCost(TypedDict):
    """What one arm takes, worked out from the shapes of its model and table."""

    arm: str  # name of the arm
    resident_parameters: int  # on the accelerator
    resident_bytes: int  # their bytes, float32; of a model of Hugging Face, in the type of its files
    offloaded_rows: int  # rows beside the accelerator
    offloaded_bytes_ram: int  # these rows and their index in RAM
    offloaded_bytes_disk: int  # or as files that are read on disk
    index_bytes: int  # part of `offloaded_bytes_ram`
    prefill_flops: int  # FLOPs per token of a prompt that fills the context
    decode_flops: int  # FLOPs to generate one token after a full context
    kv_bytes_a_token: int  # keys and values
    training_flops: float | None  # the whole training, and for a table also to compute its rows; null if not known


class Speed(TypedDict):
    """Measured throughput. Other work on the machine slows it down."""

    arm: str  # name of the arm
    placement: str | None  # where the table is: `ram`, or `mmap` (mapped from disk); null without a table
    phase: str  # `prefill` reads prompts, `decode` generates
    batch: int  # streams at once
    tokens_a_second: float  # median, all streams together
    repeats: int  # measurements behind the median
    length: NotRequired[int]  # tokens of a prompt; older results do not have it


class Latency(TypedDict):
    """Measured latency of one stream that generates. A percentile of fewer than 100 measurements is null."""

    arm: str  # name of the arm
    placement: str | None  # as in `speed`
    prompt_tokens: int  # tokens of the prompt
    first_token_ms: float  # median time to the first token
    first_token_p99_ms: float | None  # 99th percentile
    prompts: int  # measurements behind both
    latency_ms: float  # median time of each further token
    latency_p99_ms: float | None  # 99th percentile
    tokens: int  # measurements behind both


class Lookup(TypedDict):
    """Measured time to match tokens and fetch their rows, in microseconds per token."""

    placement: str | None  # as in `speed`
    batch: int  # tokens of one look-up
    median_us: float  # median
    p99_us: float  # 99th percentile


# ---- whether it pays, and the conditions -------------------------------------------------------------------------


class Payback(TypedDict):
    """After how many served tokens the table is cheaper than a plain model of equal quality. Null without a plain rival."""

    scone: str  # the arm
    baseline: EqualQuality | None  # null without plain rivals
    prices: dict[str, float | str | None]  # the table [prices] of the recipe
    outcome: str  # `after` so many tokens, `at once`, `never`, `at first` (only for so many tokens), `no rivals`
    answer: str  # `yes`, `no`; `open` where more must be measured: the verdict says what
    break_even_tokens: float | None  # served tokens until both have cost the same; null: never
    break_even_days: float | None  # days until then, at the load of `prices`
    least_tokens_a_day: float | None  # with fewer the table costs more than it saves
    extra_training_dollars: float | None  # what training costs more, once
    saving_dollars_a_million_tokens: float | None  # what serving costs less
    table_dollars_a_month: float | None  # what the memory of the table costs
    assumptions: list[Assumption]
    hinges_on: str | None  # the assumption that changes the answer most; null if none does
    verdict: str  # one sentence


class EqualQuality(TypedDict):
    """The plain model with the loss of the table, interpolated between the plain models that were measured."""

    name: str  # name of a rival, or between which two it lies
    bound: str | None  # `at least`: all rivals are worse, it costs more; `at most`: all are better, it costs less
    nats_per_token: float  # its loss
    inference_flops: float  # per token
    training_flops: float  # of the whole training


class Assumption(TypedDict):
    """One price or load, and the tokens to break even with half and with twice its value."""

    assumption: str  # key of the price or load
    text: str  # its name in a sentence
    value: float  # the value assumed
    halved: float | None  # tokens to break even with half of it; null: never
    doubled: float | None  # tokens to break even with twice of it; null: never
    halved_outcome: str  # as `outcome`, with half of it
    doubled_outcome: str  # as `outcome`, with twice of it


class Check(TypedDict):
    """One condition of `--fail-if`."""

    condition: str  # as it was given
    left: float  # value of its left side
    right: float  # value of its right side
    holds: bool  # if true, the command exits with 1
