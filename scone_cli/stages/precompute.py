"""`scone precompute`: run the f-gram model once for every f-gram; its outputs are the table (paper, section 3.3)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.artifacts.manifest import Manifest, digest_weights, fingerprint, open_artifact, read_manifest
from scone_cli.artifacts.publish import (
    SCRATCH,
    boot_id,
    place_of,
    publish,
    published,
    staging_folder,
    unfinished_bytes,
    up_to_date,
)
from scone_cli.artifacts.replacing import replaces, tell_replacing, what_is_replaced
from scone_cli.errors import BadSetting, MismatchedArtifacts, SconeError
from scone_cli.progress import Progress
from scone_cli.runtime.resources import storage_failures
from scone_cli.runtime.torchrun import Launch, launched
from scone_cli.settings import DEVICES, ROW_DTYPES, Quantity, parse_bytes, result_settings, setting
from scone_cli.stages import Report, check_same_work, check_shared, joined

if TYPE_CHECKING:
    from scone_cli.table.precompute import MemoryPlan, Sizes

STAGE = "precompute"
STAGE_VERSION = 4  # the table holds the tokenizer; rows and index as in version 3


@dataclass(frozen=True)
class Precompute:
    """Settings of `precompute`. The device changes only the last bits of rows, so it is not in the fingerprint."""

    dtype: str = setting(
        "float16",
        "Number format of the rows; formats of 8 bits or fewer have a scale per row.",
        choices=ROW_DTYPES,
    )
    memory: Quantity | None = setting(
        None,
        "Memory limit of all processes on a machine together, such as 2GiB.  [default: half of the free memory]",
        affects_result=False,
    )
    device: str = setting(
        "auto",
        "Where to compute: `auto` is a CUDA GPU if there is one, else the CPU.",
        choices=DEVICES,
        affects_result=False,
    )
    seed: int = setting(0, "Seed of the sample of rows that are checked.", affects_result=False)


@dataclass(frozen=True)
class _Made:
    """What a table depends on: settings, and the manifests of its inputs."""

    config: Precompute
    inputs: Path
    tokens: Manifest
    vocab: Manifest
    model: Manifest

    @property
    def made_from(self) -> dict[str, str]:
        """Fingerprints of the inputs, and a hash of the weights: two runs of one recipe may end with different weights."""
        weights = digest_weights(self.model)
        return {"vocab": self.vocab.fingerprint, "model": self.model.fingerprint, "weights": weights}

    @property
    def mark(self) -> str:
        """The fingerprint of the table."""
        return fingerprint(STAGE, STAGE_VERSION, result_settings(self.config), self.made_from)

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of each file of weights."""
        return {name: stamp.bytes for name, stamp in self.model.files.items() if name.endswith(".safetensors")}


def run(config: Precompute, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `vocab/` and `model/` of the workspace `inputs` and write the table folder `out`.

    Under torchrun every process calls this: each computes a part of the rows, rank 0 does the rest, and all return the
    same report.

    Raises:
        MismatchedArtifacts: model, vocabulary and tokenizer do not belong together.
        BadSetting: the model has no f-gram model, so there are no rows; too little memory.
        StorageFailure: too little disk.
        SconeError: a row differs when it is computed again alone; see `table.precompute.check_rows`.
    """
    launch = launched()
    with (
        joined(launch, config.device) as team,
        storage_failures(out.parent),
    ):  # within: so that the other ranks hear of it
        # 1. The inputs. Nothing to do if the table is there.
        check_shared(team, out)
        made = _open(config, inputs, hashes=launch.rank == 0)
        check_same_work(team, made.mark)
        boot_ids = team.gather("boot id", boot_id())
        done = None if force or launch.rank else up_to_date(out, "table", made.mark)
        if team.first("is up to date", lambda: "yes" if done else "no") == "yes":
            return Report.of(out, done or read_manifest(out, "table"), up_to_date=True)

        import pyarrow as pa  # heavy: only when there is something to compute

        from scone_cli.model.devices import find_device
        from scone_cli.model.model import SconeModel
        from scone_cli.table.layout import write_index
        from scone_cli.table.precompute import check_rows, compute_rows
        from scone_cli.table.row_files import RowFiles
        from scone_cli.vocab.vocabulary import Vocabulary

        # 2. The plan, within memory and disk; rank 0 makes the files of all rows, empty.
        sizes, memory = _planned(made, launch)
        num_tokens, max_n = made.vocab.settings["num_tokens"], made.vocab.settings["max_n"]

        def begin() -> str:
            tell_replacing(progress, out, _replaced(made, out, force))
            _check_disk(out, sizes.num_fgrams, sizes.dim, config.dtype, num_tokens)
            folder = staging_folder(out, made.mark, lasting=False, boot_ids=boot_ids)
            progress("plan", 0, 0, detail=memory.described(sizes.num_fgrams, sizes.row_bytes))
            RowFiles(folder, sizes.num_fgrams, sizes.row_bytes).create()
            return str(folder)

        staging = Path(team.first("staging folder", begin))

        # 3. Every rank computes its part of the rows.
        files = RowFiles(staging, sizes.num_fgrams, sizes.row_bytes)
        network = SconeModel.load(inputs / "model").to(find_device(config.device, launch.local_rank))
        trie = Vocabulary.read(inputs / "vocab", num_tokens, max_n).trie
        pa.default_memory_pool().release_unused()  # what reading took, else kept until the end
        compute_rows(network, trie, config.dtype, files, staging / SCRATCH, memory.num_threads, launch, progress)
        team.meet("all rows")

        # 4. Rank 0 checks a sample of the rows, writes the index, and publishes.
        def finish() -> str:
            index = trie.index()
            try:
                checked = check_rows(network, trie, index, files, config.dtype, config.seed, progress)
            except SconeError:
                shutil.rmtree(staging)  # other rows may be wrong too
                raise
            write_index(staging, index, sizes.dim, config.dtype)
            shutil.copyfile(inputs / "vocab" / "vocab.parquet", staging / "vocab.parquet")
            if "tokenizer.json" in made.tokens.files:  # a table that is copied elsewhere still knows its tokenizer
                shutil.copyfile(inputs / "tokens" / "tokenizer.json", staging / "tokenizer.json")
            publish(staging, out, _manifest(made, sizes, index.nbytes, checked))
            return "yes"

        team.first("is published", finish)
        return Report.of(out, read_manifest(out, "table"), up_to_date=False)


def _manifest(made: _Made, sizes: Sizes, index_bytes: int, rows_verified: int) -> Manifest:
    """The manifest of the finished table."""
    dim, dtype, num_rows = sizes.dim, made.config.dtype, sizes.num_fgrams
    of_vocab = {name: made.vocab.settings[name] for name in ("num_tokens", "max_n")}
    return Manifest.new(
        "table",
        stage=STAGE,
        stage_version=STAGE_VERSION,
        fingerprint=made.mark,
        settings={**result_settings(made.config), "dim": dim, "num_fgrams": num_rows, **of_vocab},
        inputs=made.made_from,
        tokenizer=made.tokens.tokenizer,
        summary={
            "rows": num_rows,
            "dim": dim,
            "dtype": dtype,
            "rows_bytes": num_rows * sizes.row_bytes,
            "index_bytes": index_bytes,
            "rows_verified": rows_verified,
        },
    )


def _open(config: Precompute, inputs: Path, hashes: bool) -> _Made:
    """Open the input artifacts and check that they belong together."""
    tokens = open_artifact(inputs / "tokens", "tokens", hashes=False)
    vocab = open_artifact(inputs / "vocab", "vocab", hashes)
    model = open_artifact(inputs / "model", "model", hashes)
    if model.summary["kind"] != "scone":
        raise BadSetting(
            f"{inputs / 'model'}: a {model.summary['kind']} model, it has no table", "run: scone train-fgram"
        )
    for name, manifest in (("vocab", vocab), ("model", model)):
        if manifest.tokenizer != tokens.tokenizer:
            raise MismatchedArtifacts(
                f"{inputs / name}: made with tokenizer {manifest.tokenizer[:12]}, "
                f"but {inputs / 'tokens'} has {tokens.tokenizer[:12]}",
                "run: scone select-vocab && scone train-fgram",
            )
    if model.inputs["vocab"] != vocab.fingerprint:
        raise MismatchedArtifacts(
            f"{inputs / 'model'}: trained with vocabulary {model.inputs['vocab'][:12]}, "
            f"but {inputs / 'vocab'} is {vocab.fingerprint[:12]}",
            "run: scone train-fgram",
        )
    return _Made(config, inputs, tokens, vocab, model)


def plan(config: Precompute, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:  # noqa: ARG001
    """What `run` would write, and the memory, disk and FLOPs it would take; nothing is written.

    Raises:
        MismatchedArtifacts, BadSetting: as `run` before it begins.
    """
    from scone_cli.model.flops import fgram_forward_flops, swiglu_width  # heavy: only when the stage runs
    from scone_cli.table.sizes import index_bytes, table_bytes

    made = _open(config, inputs, hashes=True)
    sizes, memory = _planned(made, launched())
    shape, num_tokens = made.model.settings, made.vocab.settings["num_tokens"]
    of_row = fgram_forward_flops(
        sizes.dim, swiglu_width(sizes.dim), shape["fgram_layers"], made.vocab.settings["max_n"]
    )
    facts = {
        "rows": sizes.num_fgrams,
        "dim": sizes.dim,
        "dtype": config.dtype,
        "rows_bytes": sizes.num_fgrams * sizes.row_bytes,
        "index_bytes": index_bytes(sizes.num_fgrams, num_tokens),
        "processes": memory.num_processes,
        "threads": memory.num_threads,
        "memory_bytes": memory.memory,
        "disk_bytes": table_bytes(sizes.num_fgrams, sizes.dim, config.dtype, num_tokens),
        "flops": sizes.num_fgrams * of_row,
    }
    done = not force and published(out, "table", made.mark) is not None
    return Report(STAGE, out, done, facts | ({} if done else replaces(out, _replaced(made, out, force))))


def _replaced(made: _Made, out: Path, force: bool) -> str:
    settings = result_settings(made.config)
    return what_is_replaced(made.inputs, out, "table", made.config, settings, made.made_from, force)


def _planned(made: _Made, launch: Launch) -> tuple[Sizes, MemoryPlan]:
    """The sizes that memory depends on, and the plan that keeps within the limit.

    Raises:
        BadSetting: the memory is too small.
    """
    import torch  # heavy: only when the stage runs

    from scone_cli.table.precompute import Sizes, plan_memory
    from scone_cli.table.row_formats import row_bytes

    dim, weights = made.model.settings["dim"], made.weight_bytes
    width, num_fgrams = row_bytes(made.config.dtype, dim), made.vocab.summary["fgrams"]
    sizes = Sizes(dim, sum(weights.values()), weights["fgram.safetensors"], width, num_fgrams)
    return sizes, plan_memory(_memory(made.config), launch.local_size, torch.get_num_threads(), sizes)


def _memory(config: Precompute) -> int:
    """The memory limit of all processes on this machine together, in bytes."""
    if config.memory is not None:
        return parse_bytes(config.memory, "--memory")
    from scone_cli.runtime.resources import available_memory  # see above

    return available_memory() // 2


def _check_disk(out: Path, num_fgrams: int, dim: int, dtype: str, num_tokens: int) -> None:
    from scone_cli.runtime.resources import check_disk  # see above
    from scone_cli.table.sizes import table_bytes

    check_disk(
        place_of(out).parent, table_bytes(num_fgrams, dim, dtype, num_tokens) - unfinished_bytes(out), "the table"
    )
