"""Tiny tables that tell their version, with what belongs to them, to publish by the hundred.

In the table of version k the f-grams have the ids of no other version: a row says of which version it is, and of which
f-gram. So a row that is fetched with the index of another version is seen.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from builders import Fgram, make_table, trie_of
from published import manifest_of

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import publish, staging_folder
from scone_cli.artifacts.publish_version import Published, publish_version
from scone_cli.progress import silent
from scone_cli.table import Table

NUM_TOKENS = 12
# All pairs of tokens, so that every text matches at every position but the first.
PAIRS: list[Fgram] = [(first, second) for first in range(NUM_TOKENS) for second in range(NUM_TOKENS)]


TOKENS = np.random.default_rng(0).integers(NUM_TOKENS, size=24)
_EXPECTED = [PAIRS.index(pair) for pair in zip(TOKENS[:-1].tolist(), TOKENS[1:].tolist(), strict=True)]


def version_of(table: Table) -> int:
    """The version that a table tells, after a look-up that is right in every row."""
    ids = table.matcher().match(TOKENS)
    rows = table.rows(ids)[1:].tolist()
    assert [row[1] for row in rows] == _EXPECTED, "rows of one version with the index of another"
    (version,) = {row[0] for row in rows}
    return int(version)


def parts_of(folder: Path, version: int, with_table: bool = True) -> dict[str, Path]:
    """A table, a vocabulary and an evaluation that are of one another, in `folder`; those there before are replaced."""
    if with_table:
        order = np.random.default_rng(version).permutation(len(PAIRS))
        rows = torch.tensor([[version, i] for i in order.tolist()], dtype=torch.float32)
        make_table(folder, trie_of([PAIRS[i] for i in order], NUM_TOKENS, 2), rows)
    plain(folder / "vocab", "v" * 64, "vocab", f"vocabulary {version}")
    plain(folder / "eval", "e" * 64, "eval", f"evaluation {version}", inputs={"table": "f" * 64})
    return {part: folder / part for part in ("table", "vocab", "eval")}


def plain(target: Path, print_: str, kind: str, content: str, **facts: object) -> Manifest:
    """An artifact with one file."""
    staging = staging_folder(target, print_)
    (staging / "data.txt").write_text(content)
    return publish(staging, target, manifest_of(print_, kind, **facts))


def publish_small(name: Path, folder: Path, version: int, **options: object) -> Published:
    """Publish version `version`, made in `folder`."""
    return publish_version(name, parts_of(folder, version), {"rows": version}, silent, **options)


# ---- a service ---------------------------------------------------------------------------------------------------


def serve(name: str, num_threads: int) -> None:
    """Serve from threads until stdin is closed; prints what was seen as JSON, or ends with the first error.

    Each request looks for a new version first, as a service does; every 50th opens the registry anew.
    """
    first, ends, lock = Table.open(name), threading.Event(), threading.Lock()
    first.prewarm()
    seen: dict[str, int] = {"requests": 0, "moves": 0, "opened": 0}
    versions = set[int]()

    def work() -> None:
        table = first
        while not ends.is_set():
            newer = table.reload_if_changed()
            moved, table = newer is not table, newer
            found = {version_of(table) for _ in range(4)}
            assert len(found) == 1, "two versions in one request"
            with lock:
                seen["requests"] += 1
                seen["moves"] += moved
                versions.update(found)
                anew = seen["requests"] % 50 == 0
                seen["opened"] += anew
            if anew:
                version_of(Table.open(name))
            time.sleep(0.004)  # the test's processor is for publishing

    with ThreadPoolExecutor(num_threads) as threads:
        running = [threads.submit(work) for _ in range(num_threads)]
        print("serving", flush=True)  # noqa: T201
        waiting = threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True)
        waiting.start()
        for each in as_completed(running):
            ends.set()
            each.result()
    print(json.dumps({**seen, "versions": len(versions)}))  # noqa: T201


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
