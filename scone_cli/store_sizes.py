"""What the paper's two ways of keeping the rows take, to stand beside our table: a Python dictionary, and LMDB.

The paper writes GB and means 2**30 bytes: only so are its 77.3 and 7,665 GB the two pages that LMDB takes for a row of 4,096.
"""

from __future__ import annotations

# A dictionary's entry for a tuple of five tokens: the tuple 96, its numbers 5 x 32, the row number 32, its place 34 to 67.
DICTIONARY_BYTES = 345
TOKEN_BYTES = 4  # of a key in LMDB

_PAGE = 4096
_PAGE_HEADER = 16
_NODE_HEADER = 8
_PAGE_NUMBER = 8
_POINTER = 2  # to a node, in its page
_ROOM = _PAGE - _PAGE_HEADER
_LONGEST_NODE = _ROOM // 2 - _POINTER  # at least two must fit: the value of a longer one gets pages of its own
_META_PAGES = 2


def dictionary_bytes(num_rows: int, row_bytes: int) -> int:
    """Bytes in RAM of rows in one matrix and a dictionary that finds them, as in the paper (section 4.4)."""
    return num_rows * (row_bytes + DICTIONARY_BYTES)


def lmdb_bytes(num_rows: int, row_bytes: int, key_bytes: int) -> int:
    """Bytes on disk of rows in LMDB, filled in the order of its keys: in any other, its tree takes up to twice as much.

    A value that is too long for a page in which two must fit lies in whole pages of its own, the first with a header: 4,096
    bytes take two.
    """
    inline = _NODE_HEADER + key_bytes + row_bytes
    own_pages = 0 if inline <= _LONGEST_NODE else -(-(row_bytes + _PAGE_HEADER) // _PAGE)
    node = inline if not own_pages else _NODE_HEADER + key_bytes + _PAGE_NUMBER
    pages = level = -(-num_rows // (_ROOM // _entry(node)))
    while level > 1:
        level = -(-level // (_ROOM // _entry(_NODE_HEADER + key_bytes)))
        pages += level
    return _PAGE * (_META_PAGES + pages + num_rows * own_pages)


def _entry(node_bytes: int) -> int:
    """Bytes of a page that a node takes: it begins at an even place, and has a pointer."""
    return node_bytes + node_bytes % 2 + _POINTER
