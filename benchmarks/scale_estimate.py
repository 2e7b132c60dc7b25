"""What 1T tokens and 1B rows of 2,048 numbers would take, on paper: bytes, hours and dollars on 1, 10 and 100 machines.

    python benchmarks/scale_estimate.py        # the tables of docs/scale.md

Every step takes as long as its slowest resource: `hours = max(core seconds / cores, bytes read / disk, bytes written / disk,
bytes shuffled / network, FLOPs / GPUs)`, all but the serial steps divided by the number of machines. So reading, writing and
computing overlap, and the machines are equally busy: a lower bound. Left out: training, failures, and copying the corpus to
the machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from scone_cli.model.flops import fgram_forward_flops, swiglu_width

# ---- the task ----------------------------------------------------------------------------------------------------

TOKENS = 1e12
NGRAMS = 2e9  # of 2 to 5 tokens that occur 70 times or more: as for the paper's 1B f-grams
ROWS = 1e9
DIM = 2048
LAYERS = 24  # of A_f-gram: 1.2G parameters
MAX_N = 5
ROW_BYTES = 2 * DIM  # bfloat16

# ---- measured: one core of the machine of benchmarks/README.md, shared with other programs, processor time ---------
#
# `scone --verbose count-ngrams CORPUS --tokenizer FILE --workers 1`: 273.4 MiB of English text in 18 zst files, 71.1M
# tokens at 32k BPE, 70.1M of them counted, 5.38M frequent n-grams, 17.4 s in all (two runs: 17.1 and 17.6).

COMPRESSED_BYTES = 1.13  # of zst JSON Lines per token: 80.5 MB
TOKENS_BYTES = 1.94  # of tokens/ per token: 138.2 MB
TOKENISING = 131e-9  # seconds per token: 9.3 s, which is what the pieces below and 1.2 s of start-up leave
DEALING = 32e-9  # per token: packing 0.6 s, dealing 1.35, writing 0.3
COUNTING = 46e-9  # per token: reading records 0.2 s, counting 2.6, writing runs 0.4
MERGING = 240e-9  # per n-gram: reading runs 0.1 s, ordering 0.4, writing 0.8
COUNTS_BYTES = 5.6  # of counts/ per n-gram: 30.4 MB
RUN_BYTES = 26  # per n-gram: 4n + 12, n = 3.5
RECORD_BYTES = 12  # five tokens and the flag, up to 65k token ids (counting/plan.py); 20 beyond
DEALING_AGAIN = (
    55e-9  # per token in buckets larger than memory: bench_buckets.py, 6.66 s for 65.7M records, less COUNTING
)
SELECTING = 0.7e-6  # per n-gram: `scone select-vocab --size 1000000`, 4.9 s (median of 3) with 1 s of start-up
VOCAB_BYTES = 11.2  # of vocab/ per f-gram: 11.2 MB for 1M

# ---- assumed ------------------------------------------------------------------------------------------------------

CORES = 32
MEMORY = 256 * 2**30  # bytes; half of it for counting
DISK = 2e9  # bytes per second that a machine reads, and as many that it writes: local NVMe
NETWORK = 25e9 / 8  # bytes per second to and from a machine
GPUS = 8
GPU_FLOPS = 989e12  # of an H100, bfloat16, dense, as its data sheet says
UTILISATION = 0.4  # not measured: no figure of this project is of a GPU in a cluster
CPU_DOLLARS = 3.0  # an hour of a machine with these cores, memory and disks, on demand
GPU_DOLLARS = 24.0  # an hour of a machine with these GPUs
MACHINES = (1, 10, 100)

_RECORDS_IN_MEMORY = MEMORY / 2 / CORES / (RECORD_BYTES + 20)  # that one process counts at a time
_BUCKETS = 4096
_DEALT_AGAIN = TOKENS / _BUCKETS > _RECORDS_IN_MEMORY


@dataclass(frozen=True)
class Step:
    """One step: what it takes in all, and the formula as text.

    Attributes:
        core_seconds: processor time on cores like the measured one.
        read, written: bytes of disk.
        moved: bytes of which all but one machine's share cross the network.
        flops: on GPUs.
        most_machines: on more machines it is not faster.
        least_machines: on fewer it is not needed.
        most_cores: that it uses on a machine.
    """

    name: str
    formula: str
    core_seconds: float = 0.0
    read: float = 0.0
    written: float = 0.0
    moved: float = 0.0
    flops: float = 0.0
    most_machines: int = 1 << 30
    least_machines: int = 1
    most_cores: int = CORES

    def shuffled(self, machines: int) -> float:
        """Bytes that cross the network: of M machines each keeps 1/M of what it makes."""
        used = min(machines, self.most_machines)
        return self.moved * (used - 1) / used

    def seconds(self, machines: int) -> tuple[float, str]:
        """How long it takes on so many machines, and the resource that decides."""
        used = min(machines, self.most_machines)
        takes = {
            "cores" if self.most_cores == CORES else f"{self.most_cores} core{'s' * (self.most_cores > 1)}": (
                self.core_seconds / min(self.most_cores, CORES)
            ),
            "reading": self.read / DISK,
            "writing": self.written / DISK,
            "network": self.shuffled(machines) / NETWORK,
            "GPUs": self.flops / (GPUS * GPU_FLOPS * UTILISATION),
        }
        slowest = max(takes, key=lambda what: takes[what])
        return (takes[slowest] / used, slowest) if machines >= self.least_machines else (0.0, "not needed")

    def dollars(self, machines: int) -> float:
        """What the machines cost meanwhile; those that wait are paid too."""
        return self.seconds(machines)[0] / 3600 * machines * (GPU_DOLLARS if self.flops else CPU_DOLLARS)


def steps() -> list[Step]:
    """The steps from text to table, in order."""
    records = TOKENS * RECORD_BYTES
    row_flops = fgram_forward_flops(DIM, swiglu_width(DIM), LAYERS, MAX_N)
    again = [
        Step("deal again", "T x 55 ns; T x 12 B", TOKENS * DEALING_AGAIN, read=records, written=records)
    ] * _DEALT_AGAIN
    return [
        Step(
            "tokenise",
            "T x 131 ns; T x 1.13 B; T x 1.94 B",
            TOKENS * TOKENISING,
            TOKENS * COMPRESSED_BYTES,
            TOKENS * TOKENS_BYTES,
        ),
        Step("deal", "T x 32 ns; T x 12 B", TOKENS * DEALING, written=records, moved=records),
        *again,
        Step("count", "T x 46 ns; T x 12 B; N x 26 B", TOKENS * COUNTING, records, NGRAMS * RUN_BYTES),
        Step(
            "merge",
            "N x 240 ns; N x 26 B; N x 5.6 B",
            NGRAMS * MERGING,
            NGRAMS * RUN_BYTES,
            NGRAMS * COUNTS_BYTES,
            moved=NGRAMS * RUN_BYTES,
            most_machines=1,
            most_cores=4,
        ),
        Step(
            "select",
            "N x 0.7 µs; N x 5.6 B; R x 11.2 B",
            NGRAMS * SELECTING,
            NGRAMS * COUNTS_BYTES,
            ROWS * VOCAB_BYTES,
            most_machines=1,
            most_cores=1,
        ),
        Step(
            "precompute",
            f"R x {row_flops / 1e9:.2f} GFLOP; R x 11.2 B; R x 4,096 B",
            read=ROWS * VOCAB_BYTES,
            written=ROWS * ROW_BYTES,
            flops=ROWS * row_flops,
        ),
        Step(
            "put rows in order",
            "R x 4,096 B; R x 4,096 B",
            read=ROWS * ROW_BYTES,
            written=ROWS * ROW_BYTES,
            moved=ROWS * ROW_BYTES,
            least_machines=2,
        ),
    ]


def _size(number: float) -> str:
    return f"{number / 1e12:.2f} TB" if number >= 1e10 else f"{number / 1e9:.1f} GB" if number else ""


def table() -> str:
    """The two tables in Markdown: what every step takes, and how long, for how much, on how many machines."""
    lines = [
        "| step | formula (T tokens, N n-grams, R rows) | core-hours | read | written | shuffled by 10 machines |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for step in steps():
        hours = (
            f"{step.core_seconds / 3600:,.1f}" if step.core_seconds else f"{step.flops:.2g} FLOPs" * (step.flops > 0)
        )
        sizes = f"{_size(step.read)} | {_size(step.written)} | {_size(step.shuffled(10))}"
        lines.append(f"| {step.name} | {step.formula} | {hours} | {sizes} |")
    heads = " | ".join(f"{machines} machine{'s' * (machines > 1)}" for machines in MACHINES)
    lines += ["", f"| hours, and what decides | {heads} |", "| --- |" + " --- |" * len(MACHINES)]
    for step in steps():
        takes = [step.seconds(machines) for machines in MACHINES]
        lines.append(f"| {step.name} | " + " | ".join(f"{s / 3600:,.2f}, {what}" for s, what in takes) + " |")
    hours = [sum(step.seconds(machines)[0] for step in steps()) / 3600 for machines in MACHINES]
    dollars = [sum(step.dollars(machines) for step in steps()) for machines in MACHINES]
    lines.append("| **all, hours** | " + " | ".join(f"{each:,.1f}" for each in hours) + " |")
    lines.append("| **all, dollars** | " + " | ".join(f"{each:,.0f}" for each in dollars) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
