"""Open Parquet files and weights for pyarrow, polars and safetensors, whatever the files are called.

Given a name, pyarrow takes `run:1` for a URI, polars takes `~` for the user's home, and neither they nor safetensors accept
a name that is not UTF-8. So every Parquet file and every file of weights is opened through this module.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


# What pyarrow raises on flipped bits. A column name that is not text any more is a UnicodeDecodeError, a lost one a KeyError.
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)


def to_read(path: str | Path) -> pa.NativeFile:
    """Open a file for pyarrow to read; it is closed with the last reference to it.

    Raises:
        OSError: the file cannot be opened.
    """
    return pa.OSFile(os.fsencode(path))


def to_write(path: str | Path) -> pa.NativeFile:
    """Open a file for pyarrow to write, from its beginning: a context manager that closes it.

    Raises:
        OSError: the file cannot be opened.
    """
    return pa.OSFile(os.fsencode(path), "wb")


def scan(path: Path) -> pl.LazyFrame:
    """Open a Parquet file with polars; its hash must have been checked, because polars may panic on flipped bits.

    Raises:
        OSError: the file cannot be opened.
    """
    import polars as pl  # noqa: PLC0415 - heavy, and not for every artifact

    with path.open("rb") as file:  # polars keeps a descriptor of its own
        return pl.scan_parquet(file, glob=False)


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A name by which safetensors can open a file, valid inside of `with`.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Load all tensors of a safetensors file, by name.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be opened, or is not a safetensors file.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - it loads torch

    with utf8_name(path) as name:
        return load_file(name)
