"""`scone precompute`: run the f-gram model once for every f-gram; its outputs are the table (paper, section 3.3)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.artifacts.manifest import Manifest, digest_weights, fingerprint, json_of, read_manifest
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
from scone_cli.artifacts.schemas import BASE_FILE, LEARNED_FILE, VOCAB_FILE
from scone_cli.errors import BadSetting, SconeError
from scone_cli.progress import Progress
from scone_cli.runtime.engine import check_engine
from scone_cli.runtime.resources import storage_failures
from scone_cli.runtime.torchrun import launched
from scone_cli.settings import (
    DEVICES,
    ROW_DTYPES,
    Quantity,
    engine_setting,
    parse_bytes,
    ray_address_setting,
    result_settings,
    setting,
)
from scone_cli.stages import Report, check_same_work, check_shared, joined

if TYPE_CHECKING:
    from scone_cli.model.model import SconeModel
    from scone_cli.runtime.torchrun import Team
    from scone_cli.table.precompute import Sizes
    from scone_cli.table.row_files import RowFiles
    from scone_cli.vocab.trie import FgramTrie

    _Rows = tuple[RowFiles, SconeModel, FgramTrie]  # the rows, and what they were made from

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
    vocab: Path | None = setting(
        None,
        "Make the table of this vocabulary, which may be newer than the model's: new f-grams get what the trained f-gram "
        "model gives them.  [default: vocab in the workspace, which must be the one that the model was trained with]",
        affects_result=False,
    )
    memory: Quantity | None = setting(
        None,
        "Memory limit of all processes on a machine together, such as 2GiB.  [default: half of the free memory]",
        affects_result=False,
    )
    engine: str = engine_setting()
    ray_address: str = ray_address_setting()
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
    def vocab_folder(self) -> Path:
        """The folder of the vocabulary."""
        return self.config.vocab or self.inputs / "vocab"

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
    def num_tokens(self) -> int:
        """The size of the token vocabulary."""
        return int(self.vocab.settings["num_tokens"])

    @property
    def max_n(self) -> int:
        """The most tokens of an f-gram."""
        return int(self.vocab.settings["max_n"])

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of each file of weights, and of a base in memory."""
        found = {name: stamp.bytes for name, stamp in self.model.files.items() if name.endswith(".safetensors")}
        if BASE_FILE in self.model.files:
            found["base"] = json_of((self.inputs / "model" / "config.json").read_bytes())["parameter_bytes"]
        return found


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
    check_engine(config.engine, config.ray_address)
    if config.engine == "ray" and launch.size > 1:
        raise BadSetting("--engine ray: does not work under torchrun", "run scone once, without torchrun")
    with joined(launch, config.device) as team, storage_failures(out.parent):  # so that the other ranks hear of it
        # 1. The inputs. Nothing to do if the table is there.
        check_shared(team, out)
        made = _open(config, inputs, hashes=launch.rank == 0)
        check_same_work(team, made.mark)
        boot_ids = team.gather("boot id", boot_id())
        done = None if force or launch.rank else up_to_date(out, "table", made.mark)
        if team.first("is up to date", lambda: "yes" if done else "no") == "yes":
            return Report.of(out, done or read_manifest(out, "table"), up_to_date=True)

        from scone_cli.table.layout import write_index  # heavy: only when there is something to compute
        from scone_cli.table.precompute import check_rows

        # 2. The plan, within memory and disk, and all rows.
        sizes = _sizes(made)
        if config.engine == "ray":
            files, network, trie = _rows_on_ray(made, sizes, out, progress, force)
        else:
            files, network, trie = _rows_here(made, sizes, out, team, boot_ids, progress, force)
        staging = files.folder

        # 3. Rank 0 checks a sample of the rows, writes the index, and publishes.
        def finish() -> str:
            index = trie.index()
            try:
                checked = check_rows(network, trie, index, files, config.dtype, config.seed, progress)
            except SconeError:
                shutil.rmtree(staging)  # other rows may be wrong too
                raise
            write_index(staging, index, sizes.dim, config.dtype)
            shutil.copyfile(made.vocab_folder / VOCAB_FILE, staging / VOCAB_FILE)
            if "tokenizer.json" in made.tokens.files:  # a table that is copied elsewhere still knows its tokenizer
                shutil.copyfile(inputs / "tokens" / "tokenizer.json", staging / "tokenizer.json")
            publish(staging, out, _manifest(made, sizes, index.nbytes, checked))
            return "yes"

        team.first("is published", finish)
        return Report.of(out, read_manifest(out, "table"), up_to_date=False)


def _rows_here(
    made: _Made, sizes: Sizes, out: Path, team: Team, boot_ids: Sequence[str], progress: Progress, force: bool
) -> _Rows:
    """Compute all rows in this process and the other ranks; returns them with what they were made from.

    On several machines no two ranks write to one file: see `table.pieces`.
    """
    import pyarrow as pa
    import torch

    from scone_cli.model.devices import find_device
    from scone_cli.model.model import SconeModel
    from scone_cli.runtime.resources import available_memory
    from scone_cli.table.fgram_forward import RowMaker
    from scone_cli.table.pieces import InPlace, PieceFiles, Pieces, gather, part_groups, piece_size
    from scone_cli.table.precompute import compute_rows, plan_memory
    from scone_cli.table.row_files import RowFiles
    from scone_cli.vocab.vocabulary import Vocabulary

    launch, config = team.launch, made.config
    is_alone = launch.local_size == launch.size
    limit = _memory(config, available_memory())
    plan = plan_memory(limit, launch.local_size, torch.get_num_threads(), sizes, is_alone)

    def begin() -> str:
        described = plan.described(sizes.num_fgrams, sizes.row_bytes)
        folder = _begin(made, sizes, described, out, boot_ids, progress, force, is_alone)
        if is_alone:
            RowFiles(folder, sizes.num_fgrams, sizes.row_bytes).create()  # of their full size, to be filled
        return str(folder)

    staging = Path(team.first("staging folder", begin))
    files = RowFiles(staging, sizes.num_fgrams, sizes.row_bytes)
    network = SconeModel.load(made.inputs / "model").to(find_device(config.device, launch.local_rank))
    trie = Vocabulary.read(made.vocab_folder, made.num_tokens, made.max_n).trie
    pa.default_memory_pool().release_unused()  # what reading took, else kept until the end
    maker = RowMaker(network, trie)
    pieces = Pieces(trie.token_order(), piece_size(sizes.row_bytes, maker.num_fgrams))
    apart = PieceFiles(staging / SCRATCH, sizes.row_bytes, pieces.size)
    store = InPlace(files, staging / SCRATCH, pieces.size) if is_alone else apart
    mine = range(launch.rank, len(pieces), launch.size)
    compute_rows(maker, pieces, config.dtype, store, mine, plan.num_threads, progress)
    team.meet("all rows")
    if not is_alone:
        for parts in part_groups(files, (limit - plan.memory) // launch.local_size, launch.size)[
            launch.rank :: launch.size
        ]:
            gather(pieces, apart, files, parts)
        team.meet("all files")
    return files, network, trie


def _rows_on_ray(made: _Made, sizes: Sizes, out: Path, progress: Progress, force: bool) -> _Rows:
    """Compute all rows on the nodes of a Ray cluster; returns them with what they were made from.

    A process has a GPU, or all cores of its node: each holds the model and the vocabulary.
    """
    from scone_cli.model.model import SconeModel
    from scone_cli.runtime.ray_engine import RayEngine
    from scone_cli.table.fgram_forward import fgrams_at_a_time
    from scone_cli.table.pieces import piece_size
    from scone_cli.table.precompute import plan_memory
    from scone_cli.table.row_files import RowFiles
    from scone_cli.table.row_tasks import RowJob, compute_on
    from scone_cli.vocab.vocabulary import Vocabulary

    config = made.config
    if config.device == "mps":
        raise BadSetting("--device mps: does not work with --engine ray", "give --device cpu or cuda")
    with RayEngine(config.ray_address, place_of(out).parent, [made.inputs / "model", made.vocab_folder]) as engine:
        is_on_gpu = config.device != "cpu" and engine.keep_gpu_nodes(required=config.device == "cuda")
        processes = engine.num_gpus if is_on_gpu else 1
        device, cores = "cuda" if is_on_gpu else "cpu", max(1, engine.num_cores // processes)
        memory = _memory(config, engine.free_memory)
        plan = plan_memory(memory, processes, cores, sizes, is_alone=False)
        described = f"{engine.where}{engine.num_nodes} nodes, each: {plan.described(sizes.num_fgrams, sizes.row_bytes)}"
        staging = _begin(made, sizes, described, out, (), progress, force, is_alone=False)
        files = RowFiles(staging, sizes.num_fgrams, sizes.row_bytes)
        made_of = (made.inputs / "model", made.vocab_folder, files, staging / SCRATCH, made.num_tokens, made.max_n)
        size, spare = piece_size(sizes.row_bytes, fgrams_at_a_time(device)), (memory - plan.memory) // processes
        job = RowJob(*made_of, config.dtype, device, size, plan.num_threads, spare)
        with engine.pool(processes, plan.memory, ["scone_cli.table.row_tasks"], cores, is_on_gpu) as pool:
            compute_on(pool, job, progress)
    trie = Vocabulary.read(made.vocab_folder, made.num_tokens, made.max_n).trie
    return files, SconeModel.load(made.inputs / "model"), trie


def _begin(
    made: _Made,
    sizes: Sizes,
    described: str,
    out: Path,
    boot_ids: Sequence[str],
    progress: Progress,
    force: bool,
    is_alone: bool,
) -> Path:
    """Tell the plan, check the disk, and return the folder in which the table is made."""
    tell_replacing(progress, out, _replaced(made, out, force))
    _check_disk(out, sizes, made.config.dtype, made.num_tokens, copies=1 if is_alone else 2)
    progress("plan", 0, 0, detail=described)
    synced = made.config.engine == "ray"
    return staging_folder(out, made.mark, lasting=False, boot_ids=boot_ids, synced=synced)


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
    from scone_cli.table.origin import open_inputs  # heavy: only when the stage runs

    return _Made(config, inputs, *open_inputs(inputs, config.vocab, hashes))


def plan(config: Precompute, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:  # noqa: ARG001
    """What `run` would write, and the memory, disk and FLOPs it would take; nothing is written.

    Raises:
        MismatchedArtifacts, BadSetting: as `run` before it begins.
    """
    import torch  # heavy: only when the stage runs

    from scone_cli.model.flops import fgram_forward_flops, swiglu_width
    from scone_cli.runtime.ray_engine import RayEngine
    from scone_cli.runtime.resources import available_memory
    from scone_cli.table.precompute import plan_memory
    from scone_cli.table.sizes import index_bytes, table_bytes

    made = _open(config, inputs, hashes=True)
    sizes, launch = _sizes(made), launched()
    if config.engine == "ray":
        with RayEngine(config.ray_address, None, [inputs / "model", made.vocab_folder]) as engine:
            is_on_gpu = config.device != "cpu" and engine.keep_gpu_nodes(required=config.device == "cuda")
            num_nodes, processes = engine.num_nodes, engine.num_gpus if is_on_gpu else 1
            threads, free = max(1, engine.num_cores // processes), engine.free_memory
    else:
        num_nodes, processes = launch.size // launch.local_size, launch.local_size
        threads, free = torch.get_num_threads(), available_memory()
    is_alone = num_nodes == 1 and config.engine == "local"
    memory = plan_memory(_memory(config, free), processes, threads, sizes, is_alone)
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
        **({"nodes": num_nodes} if num_nodes > 1 else {}),
        "processes": memory.num_processes,
        "threads": memory.num_threads,
        "memory_bytes": memory.memory,
        "disk_bytes": table_bytes(sizes.num_fgrams, sizes.dim, config.dtype, num_tokens)
        + (0 if is_alone else sizes.num_fgrams * sizes.row_bytes),
        "flops": sizes.num_fgrams * of_row,
    }
    done = not force and published(out, "table", made.mark) is not None
    return Report(STAGE, out, done, facts | ({} if done else replaces(out, _replaced(made, out, force))))


def _replaced(made: _Made, out: Path, force: bool) -> str:
    settings = result_settings(made.config)
    return what_is_replaced(made.inputs, out, "table", made.config, settings, made.made_from, force)


def _sizes(made: _Made) -> Sizes:
    """The sizes that memory depends on."""
    from scone_cli.table.precompute import Sizes
    from scone_cli.table.row_formats import row_bytes
    from scone_cli.table.sizes import check_parts

    dim, weights = made.model.settings["dim"], made.weight_bytes
    width, num_fgrams = row_bytes(made.config.dtype, dim), made.vocab.summary["fgrams"]
    check_parts(num_fgrams, width)
    learned = made.model.settings["learned_rows"] if LEARNED_FILE in made.model.files else 0
    return Sizes(dim, sum(weights.values()), weights.get("fgram.safetensors", 0), width, num_fgrams, learned)


def _memory(config: Precompute, free: int) -> int:
    """The memory limit of all processes of a machine together, in bytes; `free` bytes are free there."""
    return free // 2 if config.memory is None else parse_bytes(config.memory, "--memory")


def _check_disk(out: Path, sizes: Sizes, dtype: str, num_tokens: int, copies: int) -> None:
    """Refuse if the disk has too little room for the table, with its rows in so many copies."""
    from scone_cli.runtime.resources import check_disk  # see above
    from scone_cli.table.sizes import table_bytes

    needed = table_bytes(sizes.num_fgrams, sizes.dim, dtype, num_tokens)
    needed += (copies - 1) * sizes.num_fgrams * sizes.row_bytes
    check_disk(place_of(out).parent, needed - unfinished_bytes(out), "the table")
