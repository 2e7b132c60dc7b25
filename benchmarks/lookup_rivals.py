"""The rivals of `bench_lookup.py`: LMDB (used by the paper), RocksDB, a memmap with a dict, a memmap with sorted keys.

Every store holds the same rows under the same 8-byte keys. A store is given the keys of the matching f-grams, which scone
has to find itself, and copies the rows of a batch into one array. Two finders match by themselves, as the paper does: their
keys are the tokens of an f-gram, and for each token they ask for the longest n-gram first, then for shorter ones. LMDB
reads without read-ahead and RocksDB without compression, because both are faster that way here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import numpy.typing as npt
import rocksdict

U8, U64 = npt.NDArray[np.uint8], npt.NDArray[np.uint64]


def key_bytes(keys: U64) -> list[bytes]:
    """Keys as big-endian bytes, whose order is the order of the numbers."""
    raw = keys.astype(">u8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


class Store(ABC):
    """A store of rows in a folder, made from `rows`, the file of raw rows; `Mapped` reads that file, others copy it."""

    def __init__(self, folder: Path, keys: U64, rows: Path, row_bytes: int) -> None:
        self.folder, self.keys, self.rows_path, self.row_bytes = folder, keys, rows, row_bytes
        if not folder.exists():
            folder.mkdir()
            self.write(np.memmap(rows, np.uint8, "r").reshape(-1, row_bytes))

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_file()]

    def disk_bytes(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.files)

    @abstractmethod
    def write(self, rows: U8) -> None:
        """Copy the rows into the store."""

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def fetch(self, keys: list[bytes]) -> U8:
        """Fetch the rows of some keys, which all exist [len(keys), row_bytes]."""

    def _joined(self, values: list[bytes]) -> U8:
        return np.frombuffer(b"".join(values), np.uint8).reshape(-1, self.row_bytes)


class Lmdb(Store):
    def write(self, rows: U8) -> None:
        order = np.argsort(self.keys)
        environment = lmdb.open(str(self.folder), map_size=4 * rows.nbytes + (1 << 30), writemap=True, sync=False)
        for start in range(0, len(order), 100_000):
            ids = order[start : start + 100_000]
            pairs = zip(key_bytes(self.keys[ids]), map(bytes, rows[ids]), strict=True)
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(pairs, append=True)
        environment.sync(True)
        environment.close()

    def open(self) -> None:
        self._environment = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)

    def close(self) -> None:
        self._environment.close()

    def fetch(self, keys: list[bytes]) -> U8:
        with self._environment.begin(buffers=True) as transaction:
            return self._joined(list(map(transaction.get, keys)))


class RocksDb(Store):
    def _options(self) -> rocksdict.Options:
        options = rocksdict.Options(raw_mode=True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        return options

    def write(self, rows: U8) -> None:
        order = np.argsort(self.keys)
        store = rocksdict.Rdict(str(self.folder), self._options())
        for start in range(0, len(order), 20_000):
            ids = order[start : start + 20_000]
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, row in zip(key_bytes(self.keys[ids]), map(bytes, rows[ids]), strict=True):
                batch.put(key, row)
            store.write(batch)
        store.flush()
        store.compact_range(None, None)
        store.close()

    def open(self) -> None:
        self._store = rocksdict.Rdict(str(self.folder), self._options())

    def close(self) -> None:
        self._store.close()

    def fetch(self, keys: list[bytes]) -> U8:
        return self._joined(self._store.get(keys))


class Mapped(Store):
    def write(self, rows: U8) -> None:
        """Do nothing: the file of raw rows is the store."""

    @property
    def files(self) -> list[Path]:
        return [self.rows_path]

    def open(self) -> None:
        self._rows = np.memmap(self.rows_path, np.uint8, "r").reshape(-1, self.row_bytes)

    def close(self) -> None:
        del self._rows


class Dict(Mapped):
    def open(self) -> None:
        super().open()
        if not hasattr(self, "_ids"):
            self._ids = {key: number for number, key in enumerate(key_bytes(self.keys))}

    def fetch(self, keys: list[bytes]) -> U8:
        found = self._ids
        return self._rows.take([found[key] for key in keys], axis=0)


class Sorted(Mapped):
    def open(self) -> None:
        super().open()
        if not hasattr(self, "_order"):
            self._order = np.argsort(self.keys)
            self._sorted = self.keys[self._order]

    def fetch(self, keys: list[bytes]) -> U8:
        wanted = np.frombuffer(b"".join(keys), ">u8").astype(np.uint64)
        return self._rows.take(self._order[np.searchsorted(self._sorted, wanted)], axis=0)


class Finder:
    """A store that finds the longest match itself: its keys are the tokens of f-grams, 4 bytes per token."""

    def __init__(self, folder: Path, fgrams: list[bytes], rows: Path, row_bytes: int, max_n: int) -> None:
        self.folder, self.rows_path, self.row_bytes, self.max_n = folder, rows, row_bytes, max_n
        self.prepare(fgrams)

    def candidates(self, read: bytes, size: int) -> Iterator[list[bytes]]:
        """For each of the last `size` tokens of `read`, the keys of the n-grams that end there, longest first."""
        for end in range(len(read) - 4 * size + 4, len(read) + 1, 4):
            yield [read[end - 4 * n : end] for n in range(min(self.max_n, end // 4), 1, -1)]

    def prepare(self, fgrams: list[bytes]) -> None: ...

    @property
    def files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    def find(self, read: bytes, size: int) -> U8:
        """Fetch the rows for the last `size` tokens of `read`, skipping tokens at which no f-gram ends."""
        raise NotImplementedError


class LmdbFinder(Finder):
    def prepare(self, fgrams: list[bytes]) -> None:
        self.folder.mkdir()
        rows = np.memmap(self.rows_path, np.uint8, "r").reshape(-1, self.row_bytes)
        order = sorted(range(len(fgrams)), key=fgrams.__getitem__)
        environment = lmdb.open(str(self.folder), map_size=4 * rows.nbytes + (1 << 30), writemap=True, sync=False)
        for start in range(0, len(order), 100_000):
            ids = order[start : start + 100_000]
            pairs = zip((fgrams[i] for i in ids), map(bytes, rows[ids]), strict=True)
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(pairs, append=True)
        environment.sync(True)
        environment.close()
        self.open()

    def open(self) -> None:
        self._environment = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)

    def close(self) -> None:
        self._environment.close()

    def find(self, read: bytes, size: int) -> U8:
        found = []
        with self._environment.begin(buffers=True) as transaction:
            get = transaction.get
            for candidates in self.candidates(read, size):
                for key in candidates:
                    if (row := get(key)) is not None:
                        found.append(row)
                        break
            return np.frombuffer(b"".join(found), np.uint8).reshape(-1, self.row_bytes)


class DictFinder(Finder):
    def prepare(self, fgrams: list[bytes]) -> None:
        self._ids = {key: number for number, key in enumerate(fgrams)}
        self._rows = np.memmap(self.rows_path, np.uint8, "r").reshape(-1, self.row_bytes)

    def find(self, read: bytes, size: int) -> U8:
        found, ids = list[int](), self._ids
        for candidates in self.candidates(read, size):
            for key in candidates:
                if (number := ids.get(key)) is not None:
                    found.append(number)
                    break
        return self._rows.take(found, axis=0)


FINDERS = {"lmdb, finding": LmdbFinder, "dict, finding": DictFinder}
STORES = {"lmdb": Lmdb, "rocksdb": RocksDb, "memmap and dict": Dict, "memmap and searchsorted": Sorted}


def read_through(paths: list[Path]) -> None:
    """Read files once, so that they are in the page cache."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def drop(paths: list[Path]) -> None:
    """Drop files from the page cache; no process may have them mapped."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
