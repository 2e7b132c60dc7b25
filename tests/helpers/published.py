"""A small published artifact, of which tests change or spoil something."""

from pathlib import Path

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import SCRATCH, publish, staging_folder


def manifest_of(print_: str = "a" * 64, kind: str = "vocab", **changes: object) -> Manifest:
    facts = {
        "artifact": kind,
        "schema_version": 1,
        "stage": "select-vocab",
        "stage_version": 1,
        "fingerprint": print_,
        "settings": {"size": 10},
        "inputs": {"counts": "c" * 64},
        "tokenizer": "t" * 64,
        "summary": {},
    }
    return Manifest(**facts | changes)


def make(target: Path, content: str = "first", print_: str = "a" * 64) -> Manifest:
    staging = staging_folder(target, print_)
    (staging / "part").mkdir(exist_ok=True)
    (staging / "data.txt").write_text(content)
    (staging / "part" / "more.txt").write_text(content * 2)
    (staging / SCRATCH / "scratch.bin").write_bytes(b"x")
    return publish(staging, target, manifest_of(print_))
