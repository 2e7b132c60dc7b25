"""Reading a table: one row per f-gram, in files that can be mapped, and the index that finds f-grams in a text.

    with Table.open("scone-work/table", placement="ram") as table:  # or "mmap": the rows stay on the disk
        table.prewarm()                              # compiles the kernels, reads the files into the page cache
        matcher = table.matcher()                    # one per thread, for one stream or for many
        ids = matcher.match(tokens)                  # uint32 [N]: the longest f-gram that ends at each token, or NONE
        rows = table.rows(ids)                       # [N, D]; a row is zero where the id is NONE

Both kinds of folder are opened: of Parquet files (`scone precompute`), and of safetensors files (`scone export`). So is a
REGISTRY/NAME (`scone publish`): `table = table.reload_if_changed()` between requests moves to the version that is current.
`layout` says where rows and index lie in the files, `fetch` how rows are fetched, `row_formats` how rows are encoded.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
import torch

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import Manifest, check_files, digest_weights, read_manifest
from scone_cli.artifacts.registry import HeldVersion, hold, is_registry_name
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.corpus.same_tokenizer import check_same_tokenizer
from scone_cli.errors import BadSetting, ForeignArtifact, MismatchedArtifacts, SconeError
from scone_cli.runtime.forks import work_alone_in_forks
from scone_cli.runtime.native_memory import Addressed
from scone_cli.table.fetch import RowsInFiles, RowsInMemory
from scone_cli.table.given_out import as_target, check_apart
from scone_cli.table.layout import FILES, SHAPE, parts_of, read_index
from scone_cli.table.reload import Closed, Reopening
from scone_cli.table.row_formats import FORMATS, decode, row_bytes, torch_dtype
from scone_cli.table.stored_file import Piece, StoredFile, is_local
from scone_cli.table.tensor_files import export_again
from scone_cli.vocab.given_ids import ID, Ids, as_row_numbers, whole_number
from scone_cli.vocab.index import NONE, REMAKE, FgramIndex
from scone_cli.vocab.matcher import Matcher

if TYPE_CHECKING:
    from scone_cli.corpus.same_tokenizer import AnyTokenizer

PLACEMENTS = ("mmap", "ram")
_array, _ONE = np.ndarray, (1,)  # module names are looked up faster: see `given_ids.ID`

Out = TypeVar("Out", torch.Tensor, np.ndarray[Any, Any])


class Table(Addressed):
    """A table opened for reading: S rows of D numbers, and the index that finds their f-grams in a text.

    Threads: any number of threads may call `rows` at once; each needs a `matcher` of its own. Fork: a table that was
    opened, and used, before a fork works in the child too (gunicorn's `--preload`, DataLoader workers). torch then uses one
    thread in the child: the parent's threads do not exist there, and waiting for them would never end. A table cannot be
    copied or pickled.

    Attributes:
        folder, placement: what it was opened with; of a REGISTRY/NAME, the folder of the table in its version.
        num_rows, dim: S and D; `len(table)` is S too.
        format: format of the numbers in the files: float32, float16, bfloat16, float8_e4m3, int8 or int4.
        index, manifest, stored: internal, not part of the public interface that `scone_cli` promises.
    """

    def __init__(
        self,
        folder: Path,
        placement: str,
        manifest: Manifest,
        index: FgramIndex,
        stored: RowsInFiles | RowsInMemory,
        on_disk: Sequence[Piece],
        held: HeldVersion | None = None,
        reopening: Reopening | None = None,
    ) -> None:
        """Build a table from parts that `open` has checked; `on_disk` are the file ranges to prewarm, in this order."""
        self.folder, self.placement, self.manifest = folder, placement, manifest
        self.index, self.stored = index, stored
        self.num_rows, self.dim, self.format = (
            index.num_fgrams,
            int(manifest.settings["dim"]),
            manifest.settings["dtype"],
        )
        self._vocab_size = index.num_tokens
        # None for formats with a scale: their rows must be converted.
        self._plain_type = None if FORMATS[self.format].largest else torch_dtype(self.format)
        self._bits = np.dtype(f"u{self.dtype.itemsize}")
        self._on_disk = on_disk
        self._matchers = weakref.WeakSet[Matcher]()
        self._held, self._reopening = held, reopening
        work_alone_in_forks()

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        placement: str = "mmap",
        *,
        tokenizer: AnyTokenizer | None = None,
        model: Manifest | None = None,
        hashes: bool = False,
    ) -> Table:
        """Open a table and check its sizes, schema, fingerprint and index; with `hashes`, every byte.

        `folder` is the folder of a table, or a REGISTRY/NAME, whose current version is opened: rows and index are of one version,
        whatever is published meanwhile.

        With `placement` "mmap" this takes milliseconds, and rows are read from the disk on demand, through the page cache.
        With "ram" the whole table is read now, into huge pages if the system has them: this is the fastest, and later
        failures of the disk do not matter.

        `tokenizer` is the tokenizer that your tokens come from: the path of a `tokenizer.json`, a `tokenizers.Tokenizer`, or
        a fast tokenizer of transformers. It must give the same ids as the table's own. A file with the same SHA-256 is
        accepted at once; otherwise both are rewritten by the tokenizers library, and must have the same normalizer,
        pre-tokenizer, model and added tokens. Post-processor, truncation, padding and decoder are not compared. None: the
        tokenizer is not checked.

        `model` is the manifest of the model that will read the table; `scone` itself gives it. A table belongs to a model,
        whatever its vocabulary (`scone precompute --vocab`). None: not checked.

        Raises:
            BadSetting: the placement is unknown; `folder` is not a path; `tokenizer` is none of the above.
            MismatchedArtifacts: the table was made from another model or tokenizer, or by an earlier version; with a
                `tokenizer`: the table was made from token ids, without a tokenizer.
            DamagedArtifact: a file does not agree with the manifest or with the format of a table.
            StorageFailure: a file cannot be read, or does not fit into memory.
            InputMissing: the folder or the tokenizer does not exist.
            BadData: the tokenizer's file is not a tokenizer.
            HalfWrittenArtifact, ForeignArtifact, NewerArtifact: the folder is not a table, is encrypted, or is one that this
                version cannot read.
        """
        if placement not in PLACEMENTS:
            raise BadSetting(f"placement {placement!r}, expected one of {', '.join(PLACEMENTS)}")
        if not isinstance(folder, (str, os.PathLike)):
            raise BadSetting(f"{folder!r} ({type(folder).__name__}): expected the path of a table's folder")

        def open_now(path: Path, reopening: Reopening | None) -> Table:
            return cls._open(path, reopening, placement, tokenizer, model, hashes)

        return Reopening(Path(folder), open_now).open() if is_registry_name(folder) else open_now(Path(folder), None)

    @classmethod
    def _open(cls, path: Path, reopening: Reopening | None, *how: Any) -> Table:
        """Open the table that `path` names; if its version is removed meanwhile, that of the version that is current then."""
        while True:
            held = hold(path)
            try:
                return cls._opened(path if held is None else held.table(), held, reopening, *how)
            except (SconeError, OSError):
                if held is None or not held.has_vanished():
                    raise

    @classmethod
    def _opened(
        cls,
        folder: Path,
        held: HeldVersion | None,
        reopening: Reopening | None,
        placement: str,
        tokenizer: AnyTokenizer | None,
        model: Manifest | None,
        hashes: bool,
    ) -> Table:
        manifest = read_manifest(folder, *FILES)
        settings, width = checked_shape(folder, manifest, model, hashes)
        if tokenizer is not None:
            copies = [folder / "tokenizer.json", folder.resolve().parent / "tokens" / "tokenizer.json"]
            check_same_tokenizer(tokenizer, manifest.tokenizer, copies, str(folder))
        can_be_mapped = is_local(folder)
        index_file = StoredFile(folder / FILES[manifest.artifact][1], can_be_mapped)
        index = read_index(index_file, settings, placement)
        parts = parts_of(folder, manifest, width, can_be_mapped)
        if placement == "ram":
            return cls(folder, placement, manifest, index, RowsInMemory(parts, width), [], held, reopening)
        rows = [Piece(part.file, part.start, part.num_rows * width) for part in parts]
        on_disk = [Piece(index_file, 0, index_file.size), *rows]
        return cls(folder, placement, manifest, index, RowsInFiles(parts, width), on_disk, held, reopening)

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def version(self) -> str | None:
        """The name of its version in a registry; None if it is not of one."""
        return None if self._held is None else self._held.folder.name

    @property
    def link(self) -> str:
        """Internal: what `current` of its registry said."""
        return (self._held and self._held.link) or ""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return isinstance(self.stored, Closed)

    @property
    def row_bytes(self) -> int:
        """Bytes per row in the files."""
        return row_bytes(self.format, self.dim)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows that `rows` returns: the type in the files, or float32 if the format has a scale."""
        return self._plain_type or torch.float32

    @property
    def vocab_size(self) -> int:
        """Number of token ids that may be matched: 0 to `vocab_size` - 1."""
        return self._vocab_size

    @property
    def tokenizer_sha256(self) -> str:
        """SHA-256 of the table's `tokenizer.json`; empty if the table was made from token ids without a tokenizer."""
        return self.manifest.tokenizer

    def __len__(self) -> int:
        """The number of rows."""
        return self.num_rows

    def __bool__(self) -> bool:
        """Always True, also for a table without rows."""
        return True

    def __repr__(self) -> str:
        """Describe the table in one line: folder, rows, format, tokens, placement."""
        rows = f"{self.num_rows:,} rows of {self.dim} {self.format}"
        closed = ", closed" if self.is_closed else ""
        return f"<Table {str(self.folder)!r}: {rows}, {self._vocab_size:,} tokens, {self.placement}{closed}>"

    # ---- what it gives -------------------------------------------------------------------------------------------

    def matcher(self, streams: int = 1) -> Matcher:
        """Make a `Matcher` for `streams` streams of tokens that arrive in pieces; one thread at a time may use it.

        `match(tokens, starts=None, streams=None)` returns ids, uint32 [N], for the next tokens [N]. `roll_back(tokens, stream=0)`
        takes the last tokens back, and `reset(stream=0)` begins a new document.

        Raises:
            NotEnoughMemory: the states of so many streams do not fit into memory.
            ValueError: `streams` is not a whole number from 1 on; the table was closed.
        """
        matcher = Matcher(self.index, streams)
        self._matchers.add(matcher)
        return matcher

    @overload
    def rows(self, ids: Ids, out: None = None) -> torch.Tensor: ...

    @overload
    def rows(self, ids: Ids, out: Out) -> Out: ...

    def rows(self, ids: Any, out: Any = None) -> Any:
        """Fetch the rows [N, D] of f-grams; a row is zero where its id is NONE (2**32 - 1).

        `ids` [N] are whole numbers of any type: an array (not copied if it is contiguous uint32), a list, or a tensor on the
        CPU. The result is a new tensor of the table's `dtype`. If `out` [at least N, D] is given, a CPU tensor or numpy array
        of any floating-point type, the rows are written into its first N rows and `out` is returned; where an id is NONE,
        `out` keeps its row. If `out` is contiguous and has the table's own type, rows are copied once, without conversion.

        Raises:
            ValueError: `ids` are not whole numbers in one dimension; `out` is too small, of another type or cannot be
                written to; the table was closed.
            IndexError: an id is outside the table; rows before it may have been written into `out`.
            DamagedArtifact, StorageFailure: a file has become shorter since it was opened, or the disk fails.
        """
        if not (type(ids) is _array and ids.dtype is ID and ids.shape == _ONE):
            ids = as_row_numbers(ids, self.num_rows)
        target = self._new(ids.size) if out is None else as_target(out, ids.size, self.dim, self._plain_type)
        if target.dtype is self._plain_type and target.is_contiguous():
            self.stored.read(ids, target.data_ptr())
        else:
            self._convert(ids, target)
        return target if out is None else out

    def _new(self, count: int) -> torch.Tensor:
        """Zeros [count, D] from numpy, which gets zeroed pages; torch would write zeros, with threads that a fork lacks."""
        return torch.from_numpy(np.zeros((count, self.dim), self._bits)).view(self.dtype)

    def _convert(self, ids: U32, target: torch.Tensor) -> None:
        """Write rows into a target that has another type than the rows, or is not contiguous."""
        check_apart(target)
        matched = np.flatnonzero(ids != np.uint32(NONE))
        raw = np.empty((matched.size, self.row_bytes), np.uint8)
        self.stored.read(ids[matched], raw.ctypes.data)
        with torch.no_grad():
            target[torch.from_numpy(matched)] = decode(raw, self.format, self.dim).to(target.dtype)

    def prewarm(self, budget: int | None = None) -> int:
        """Make the first look-ups as fast as later ones: compile the kernels, and read the files into the page cache.

        It reads the index first, then the rows, most frequent first, until `budget` bytes have been read (None: everything;
        0: only the kernels), and returns the number of bytes read. With placement "ram" everything is in memory already, and
        nothing is read. Kernels are cached on disk: compiling them takes seconds the first time on a machine; later processes
        load them in a fraction of a second. Call it before a fork: the children then have kernels and page cache.

        Raises:
            ValueError: `budget` is not a whole number from 0 on; the table was closed.
            DamagedArtifact, StorageFailure: a file has become shorter since it was opened, or the disk fails.
        """
        left = sys.maxsize if budget is None else whole_number(budget, "budget", least=0)
        matcher, read = Matcher(self.index, 2), 0
        for count, starts in ((1, None), (2, None), (2, [0, 1, 2])):
            matcher.match(np.zeros(count, ID), starts)
        self.stored.compile()
        for piece in self._on_disk:
            size = min(piece.size, left - read)
            piece.file.warm(piece.start, size)
            read += size
        return read

    # ---- another version -----------------------------------------------------------------------------------------

    def reload_if_changed(self) -> Table:
        """The table of the version that is current now: this one, if `current` has not moved; else another, newly opened.

        Call it between requests: `table = table.reload_if_changed()`. If nothing has moved it takes a microsecond or two. A
        table never changes: a request that has begun goes on with the table, and the matcher, with which it began, and reads
        one version. An id has a meaning only in the table whose matcher gave it, so a request takes its table once, and makes
        its matcher (or `SconeEmbedding`) from that. Several threads may call it, on one table or on several: all get the same
        new table, which is opened once, with the placement, tokenizer and model of this one.

        Do not close the old table, as others may be reading it: it closes with the last reference to it. Always returns this
        table if it was not opened as a REGISTRY/NAME.

        Raises:
            MismatchedArtifacts: the new version is of another model or tokenizer; this table stays open, as for all errors.
            InputMissing: there is no version that is current.
            SconeError: see `Table.open`.
        """
        if self._reopening is None or not self._reopening.has_moved(self.link):
            return self
        return self._reopening.newest()

    # ---- closing -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release files and memory; any later use of the table or its matchers raises ValueError.

        Rows that were returned stay valid. The memory of the index is freed with the last matcher. A second call does nothing.
        """
        closed: Any = Closed(f"{self.folder}: the table was closed; open it again to read it")
        self.index = self.stored = closed
        self._on_disk = []
        if self._held is not None:
            self._held.release()
        for matcher in list(self._matchers):
            matcher.close(closed)

    def __enter__(self) -> Self:
        """Return the table; leaving the context closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the table."""
        self.close()


def checked_shape(folder: Path, manifest: Manifest, model: Manifest | None, hashes: bool) -> tuple[dict[str, Any], int]:
    """Check version, origin and files of a table; returns the settings by which it is read, and its bytes per row.

    Raises:
        MismatchedArtifacts, DamagedArtifact, ForeignArtifact: see `Table.open`.
    """
    try:
        _check_origin(folder, manifest, model)
        check_files(folder, manifest, hashes)
        settings = {name: manifest.settings[name] for name in SHAPE}
        return settings, row_bytes(settings["dtype"], settings["dim"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        problem = f"{folder}: a manifest that no table has ({type(error).__name__}: {error})"
        raise ForeignArtifact(problem, _remake(folder, manifest)) from error


def _remake(folder: Path, manifest: Manifest) -> str:
    return REMAKE if manifest.artifact == "table" else export_again(folder)


def _check_origin(folder: Path, manifest: Manifest, model: Manifest | None) -> None:
    if manifest.schema_version < (newest := SCHEMA_VERSIONS[manifest.artifact]):
        raise MismatchedArtifacts(
            f"{folder}: a table in format {manifest.schema_version}, expected format {newest}",
            _remake(folder, manifest),
        )
    if model is None:
        return
    for what, found, expected in (
        ("rows of model", manifest.inputs["model"], model.fingerprint),
        ("rows of weights", manifest.inputs["weights"], digest_weights(model)),
        ("tokenizer", manifest.tokenizer, model.tokenizer),
    ):
        if found != expected:
            raise MismatchedArtifacts(
                f"{folder}: {what} {found[:12]}, expected {expected[:12]}", "run: scone precompute"
            )
