"""The table: one row an f-gram, kept in Parquet files that are also mapped, and the index that finds a row's id.

    with Table.open("scone-work/table", placement="ram") as table:  # or "mmap": the rows stay on the disk
        table.prewarm()                              # compiles the kernels, reads the files into the page cache
        matcher = table.matcher()                    # one a thread; of one stream, or of many
        ids = matcher.match(tokens)                  # uint32 [N]: the longest f-gram that ends at each token, or NONE
        rows = table.rows(ids)                       # [N, D]; zero where there is none, or as `out` was

Where rows and index lie in the files is in `layout`, how rows are fetched in `fetch`, their formats in `row_formats`.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

import numpy as np
import torch

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import Manifest, check_files, digest_weights, read_manifest
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.corpus.same_tokenizer import check_same_tokenizer
from scone_cli.errors import BadSetting, DamagedArtifact, ForeignArtifact, MismatchedArtifacts
from scone_cli.runtime.forks import work_alone_in_forks
from scone_cli.runtime.native_memory import Addressed
from scone_cli.table.fetch import Part, RowsInFiles, RowsInMemory
from scone_cli.table.layout import INDEX, locate_rows, read_index
from scone_cli.table.row_formats import FORMATS, decode, row_bytes, torch_dtype
from scone_cli.table.stored_file import Piece, StoredFile, is_local
from scone_cli.vocab.given_ids import ID, Ids, as_row_numbers, whole_number
from scone_cli.vocab.index import NONE, REMAKE, FgramIndex
from scone_cli.vocab.matcher import Matcher

if TYPE_CHECKING:
    from scone_cli.corpus.same_tokenizer import AnyTokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PLACEMENTS = ("mmap", "ram")
_array, _ONE = np.ndarray, (1,)  # named here: see `given_ids.ID`

Out = TypeVar("Out", torch.Tensor, np.ndarray[Any, Any])


class Table(Addressed):
    """A table opened for reading: S rows of D numbers, and the index that finds the f-gram of a row in a text.

    Threads: any number may call `rows` at once, each with a `matcher` of its own. Fork: a table that was opened, and used,
    before a fork goes on in the child (gunicorn's `--preload`, the workers of a DataLoader), where torch then computes with one
    thread: those of the parent are not there, and to wait for them would take forever. A table is neither copied nor pickled.

    Attributes:
        folder, placement: what it was opened with.
        num_rows, dim: S and D; `len(table)` is S too.
        format: of a number in the files: float32, float16, bfloat16, float8_e4m3, int8 or int4.
        index, manifest, stored: not for use from outside, see the promise in `scone_cli`.
    """

    def __init__(
        self,
        folder: Path,
        placement: str,
        manifest: Manifest,
        index: FgramIndex,
        stored: RowsInFiles | RowsInMemory,
        on_disk: Sequence[Piece],
    ) -> None:
        """Of parts that `open` has checked; `on_disk` is what look-ups read of files, hot ones first."""
        self.folder, self.placement, self.manifest = folder, placement, manifest
        self.index, self.stored = index, stored
        self.num_rows, self.dim, self.format = (
            index.num_fgrams,
            int(manifest.settings["dim"]),
            manifest.settings["dtype"],
        )
        self._vocab_size = index.num_tokens
        self._plain_type = (
            None if FORMATS[self.format].largest else torch_dtype(self.format)
        )  # numbers and nothing else
        self._bits = np.dtype(f"u{self.dtype.itemsize}")
        self._on_disk = on_disk
        self._matchers = weakref.WeakSet[Matcher]()
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
        """Open a table, checking sizes, schema, fingerprint and index (every byte if `hashes`).

        With `placement` "mmap" that takes milliseconds, and rows are read from the disk when they are asked for, through the page
        cache; with "ram" all of it is read now, into pages as large as the system has them: the fastest, and nothing that
        happens to the disk later matters.

        `tokenizer` is what your tokens come from: the path of a `tokenizer.json`, a `tokenizers.Tokenizer`, or a fast
        tokenizer of transformers. It must give a text the ids that the table's own gives. A file of the same SHA-256 does;
        else both are written anew by the tokenizers library, and must have the same normalizer, pre-tokenizer, model and added
        tokens. What is added around a text, cuts or pads it, and how ids become text are not compared. None: not checked.

        `model` is the manifest of the model that will read it: given by `scone` itself (None: not checked).

        Raises:
            BadSetting: there is no such placement; `folder` is no path; `tokenizer` is nothing of the above.
            MismatchedArtifacts: the table was made from another model, vocabulary or tokenizer, or by an earlier version; with a
                `tokenizer`: it was made from token ids, without one.
            DamagedArtifact: a file is not what the manifest and this module say it is.
            StorageFailure: a file cannot be read, or does not fit into memory.
            InputMissing: there is no such folder, or no such tokenizer.
            BadData: the tokenizer's file is none.
            HalfWrittenArtifact, ForeignArtifact, NewerArtifact: it is no table, or not one that this version knows.
        """
        if placement not in PLACEMENTS:
            raise BadSetting(f"placement {placement!r}, expected one of {', '.join(PLACEMENTS)}")
        if not isinstance(folder, (str, os.PathLike)):
            raise BadSetting(f"{folder!r} ({type(folder).__name__}): expected the path of a table's folder")
        folder = Path(folder)
        manifest = read_manifest(folder, "table")
        try:
            _check_origin(folder, manifest, model)
            check_files(folder, manifest, hashes)
            settings = {name: manifest.settings[name] for name in ("dtype", "dim", "num_fgrams", "num_tokens", "max_n")}
            width = row_bytes(settings["dtype"], settings["dim"])
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            problem = f"{folder}: a manifest that no table has ({type(error).__name__}: {error})"
            raise ForeignArtifact(problem, REMAKE) from error
        if tokenizer is not None:
            copies = [folder / "tokenizer.json", folder.resolve().parent / "tokens" / "tokenizer.json"]
            check_same_tokenizer(tokenizer, manifest.tokenizer, copies, str(folder))
        can_be_mapped = is_local(folder)
        index_file = StoredFile(folder / INDEX, can_be_mapped)
        index = read_index(index_file, settings, placement)
        parts = _parts(folder, can_be_mapped, width, index.num_fgrams)
        if placement == "ram":
            return cls(folder, placement, manifest, index, RowsInMemory(parts, width), [])
        rows = [Piece(part.file, part.start, part.num_rows * width) for part in parts]
        on_disk = [Piece(index_file, 0, index_file.size), *rows]
        return cls(folder, placement, manifest, index, RowsInFiles(parts, width), on_disk)

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the files."""
        return row_bytes(self.format, self.dim)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers that `rows` gives: that of the files, float32 where these have a scale."""
        return self._plain_type or torch.float32

    @property
    def vocab_size(self) -> int:
        """Tokens that may be asked for: the ids 0 to `vocab_size` - 1."""
        return self._vocab_size

    @property
    def tokenizer_sha256(self) -> str:
        """SHA-256 of the `tokenizer.json` that the table's tokens come from; empty if it was made from token ids without one."""
        return self.manifest.tokenizer

    def __len__(self) -> int:
        """Rows."""
        return self.num_rows

    def __bool__(self) -> bool:
        """A table is true, one without rows too."""
        return True

    def __repr__(self) -> str:
        """One line."""
        rows = f"{self.num_rows:,} rows of {self.dim} {self.format}"
        closed = ", closed" if isinstance(self.stored, _Closed) else ""
        return f"<Table {str(self.folder)!r}: {rows}, {self._vocab_size:,} tokens, {self.placement}{closed}>"

    # ---- what it gives -------------------------------------------------------------------------------------------

    def matcher(self, streams: int = 1) -> Matcher:
        """A `Matcher` for so many streams of tokens that arrive in pieces. It serves one thread at a time.

        `match(tokens, starts=None, streams=None)` gives ids, uint32 [N], for the next tokens [N]; `roll_back(tokens, stream=0)`
        takes the last ones back, and `reset(stream=0)` begins a new document.

        Raises:
            NotEnoughMemory: for the states of so many streams.
            ValueError: `streams` is no whole number from 1 on; the table was closed.
        """
        matcher = Matcher(self.index, streams)
        self._matchers.add(matcher)
        return matcher

    @overload
    def rows(self, ids: Ids, out: None = None) -> torch.Tensor: ...

    @overload
    def rows(self, ids: Ids, out: Out) -> Out: ...

    def rows(self, ids: Any, out: Any = None) -> Any:
        """The rows [N, D] of f-grams; where an id is NONE (2**32 - 1), zero.

        `ids` [N] are whole numbers of any type: an array (uint32 and contiguous: nothing is copied), a list, or a tensor on
        the CPU. The result is a tensor of the table's `dtype`, with memory of its own. With `out` [at least N, D], a tensor on
        the CPU or an array of numpy, of any floating-point type, rows are written into its first N, and `out` is returned; a
        row for which there is NONE stays as it is. Nothing is converted, and nothing copied twice, if `out` is contiguous and
        of the table's own type.

        Raises:
            ValueError: `ids` are no whole numbers in one dimension; `out` is too small, of another type or cannot be written
                to; the table was closed.
            IndexError: an id is none of the table's; rows before it may have been written into `out`.
            DamagedArtifact, StorageFailure: a file has become shorter since it was opened, or the disk fails.
        """
        if not (type(ids) is _array and ids.dtype is ID and ids.shape == _ONE):
            ids = as_row_numbers(ids, self.num_rows)
        target = self._new(ids.size) if out is None else self._writable(out, ids.size)
        if target.dtype is self._plain_type and target.is_contiguous():
            self.stored.read(ids, target.data_ptr())
        else:
            self._convert(ids, target)
        return target if out is None else out

    def _new(self, count: int) -> torch.Tensor:
        """Zeros [count, D], which numpy asks the system for: torch would write them, and use threads that a fork has not."""
        return torch.from_numpy(np.zeros((count, self.dim), self._bits)).view(self.dtype)

    def _writable(self, out: Any, count: int) -> torch.Tensor:
        """`out` as a tensor, if `count` rows can be written into it."""
        expected = f"expected at least [{count}, {self.dim}] of floating-point numbers on the CPU"
        if isinstance(out, np.ndarray):
            if not out.flags.writeable:
                raise ValueError(f"out is an array that cannot be written to, {expected}")
            try:
                out = torch.from_numpy(out)
            except (TypeError, ValueError) as error:  # types that torch has not; steps backwards
                raise ValueError(f"out: {str(error).splitlines()[0]}; {expected}") from error
        if not isinstance(out, torch.Tensor):
            raise ValueError(  # noqa: TRY004 - as everything else that is wrong with it
                f"out is a {type(out).__name__}, {expected}, as a tensor or an array of numpy"
            )
        shape = out.shape
        if (
            len(shape) != 2
            or shape[0] < count
            or shape[1] != self.dim
            or not out.is_cpu
            or out.layout is not torch.strided
        ):
            raise ValueError(f"out is {list(shape)} on {out.device}, {expected}")
        if out.is_neg():
            raise ValueError(f"out is a view of numbers that have another sign in memory, {expected}")
        if out.dtype is not self._plain_type and out.dtype not in (*DTYPES.values(), torch.float64):
            raise ValueError(f"out is of {out.dtype}, {expected}")
        return out

    def _convert(self, ids: U32, target: torch.Tensor) -> None:
        """Write rows into what is of another type than they are, or does not lie in one piece."""
        if target.numel() and any(
            step == 0 < size - 1 for step, size in zip(target.stride(), target.shape, strict=True)
        ):
            raise ValueError("out has numbers that lie on one another, expected a place for each")
        matched = np.flatnonzero(ids != np.uint32(NONE))
        raw = np.empty((matched.size, self.row_bytes), np.uint8)
        self.stored.read(ids[matched], raw.ctypes.data)
        with torch.no_grad():
            target[torch.from_numpy(matched)] = decode(raw, self.format, self.dim).to(target.dtype)

    def prewarm(self, budget: int | None = None) -> int:
        """Make the first look-ups as fast as all others: compile the kernels, and read the files into the page cache.

        Returns the bytes that were read: the index first, then rows in their order, the most frequent first, until `budget` bytes
        have been read (None: all; 0: kernels alone). With placement "ram" all is in memory already, and nothing is read.
        Kernels are kept on disk: compiling them takes seconds the first time on a machine, and loading them a fraction of one
        in every process after it. Call it before a fork, and the children have both.

        Raises:
            ValueError: `budget` is no whole number from 0 on; the table was closed.
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

    # ---- until when ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of files and memory; what is asked of the table or its matchers from then on is a ValueError.

        Rows that were given out stay valid. The memory of the index goes with the last matcher. A second call does nothing.
        """
        closed: Any = _Closed(f"{self.folder}: the table was closed; open it again to read it")
        self.index = self.stored = closed
        self._on_disk = []
        for matcher in list(self._matchers):
            matcher.close(closed)

    def __enter__(self) -> Self:
        """The table itself, which is closed when the context is left."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _Closed:
    """In the place of what a closed table has let go of: whatever is asked of it is refused."""

    def __init__(self, says: str) -> None:
        self.__says = says

    def __getattr__(self, _: str) -> NoReturn:
        raise ValueError(self.__says)


def _parts(folder: Path, can_be_mapped: bool, width: int, num_fgrams: int) -> list[Part]:
    """The files of rows, which must be those of so many f-grams."""
    paths = sorted(folder.glob("rows-*.parquet"))
    parts = [Part(StoredFile(path, can_be_mapped), *locate_rows(path, width)) for path in paths]
    num_rows = sum(part.num_rows for part in parts)
    if num_rows != num_fgrams:
        raise DamagedArtifact(f"{folder}: {num_rows:,} rows, expected {num_fgrams:,} rows", REMAKE)
    most = max((part.num_rows for part in parts), default=0)
    if any(part.num_rows != most for part in parts[:-1]):  # by its number alone a row's file is found
        raise DamagedArtifact(
            f"{folder}: files that do not all have {most:,} rows, expected of all but the last", REMAKE
        )
    return parts


def _check_origin(folder: Path, manifest: Manifest, model: Manifest | None) -> None:
    if manifest.schema_version < SCHEMA_VERSIONS["table"]:
        raise MismatchedArtifacts(
            f"{folder}: a table in format {manifest.schema_version}, expected format {SCHEMA_VERSIONS['table']}", REMAKE
        )
    if model is None:
        return
    for what, found, expected in (
        ("rows of model", manifest.inputs["model"], model.fingerprint),
        ("rows of weights", manifest.inputs["weights"], digest_weights(model)),
        ("rows of vocabulary", manifest.inputs["vocab"], model.inputs["vocab"]),
        ("tokenizer", manifest.tokenizer, model.tokenizer),
    ):
        if found != expected:
            raise MismatchedArtifacts(
                f"{folder}: {what} {found[:12]}, expected {expected[:12]}", "run: scone precompute"
            )
