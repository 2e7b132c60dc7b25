"""What comes from strangers names no file outside of its folder: neither by a path nor by a link."""

import json
import shutil
from pathlib import Path

import pytest
from messages import refusal
from registries import parts_of, publish_small
from workspaces import manifest, write_manifest

from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.fetch_version import fetch_version
from scone_cli.artifacts.manifest import check_files, open_artifact, read_manifest
from scone_cli.artifacts.publish_version import publish_version
from scone_cli.artifacts.registry import facts_text, versions
from scone_cli.artifacts.verify import check_version, verify_artifact
from scone_cli.errors import ForeignArtifact
from scone_cli.progress import silent


def linked_out(path: Path, tmp_path: Path) -> Path:
    """Move a file out of its folder, and put a link in its place: sizes and hashes are right."""
    outside = tmp_path / f"outside-{path.name}"
    shutil.copyfile(path, outside)
    path.unlink()
    path.symlink_to(outside)
    return outside


@pytest.mark.parametrize(
    "name", ["../data.txt", "/etc/passwd", "a/../../b", "..", "", ".", "a//b", "./data.txt", "a\0b"]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(vocab, name):
    facts = manifest(vocab)
    facts["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_manifest(vocab, facts)
    for read in (read_manifest, lambda folder: verify_artifact(folder, silent)):
        with refusal(ForeignArtifact, str(vocab / "manifest.json"), "inside"):
            read(vocab)


def test_a_link_out_of_an_artifact_is_refused(vocab):
    found = read_manifest(vocab)
    outside = linked_out(vocab / "data.txt", vocab.parent)
    for look in (
        lambda: check_files(vocab, found, hashes=False),
        lambda: open_artifact(vocab, "vocab"),
        lambda: verify_artifact(vocab, silent),
    ):
        with refusal(ForeignArtifact, str(vocab / "data.txt"), str(outside)):
            look()


def test_folders_may_be_links_and_so_may_the_blobs_of_a_hub(vocab):
    """A large artifact on another disk; a repository in the cache of Hugging Face's hub."""
    other = vocab.parent / "elsewhere"
    vocab.rename(other)
    vocab.symlink_to(other)
    open_artifact(vocab, "vocab")
    (vocab / "same").symlink_to("data.txt")  # within the folder
    repository = vocab.parent / "models--someone--model"
    snapshot = repository / "snapshots" / "abc" / "table"
    shutil.copytree(other, snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "data.txt").rename(repository / "blobs" / "123")
    (snapshot / "data.txt").symlink_to("../../../blobs/123")
    open_artifact(snapshot, "vocab")
    (snapshot / "data.txt").unlink()
    (snapshot / "data.txt").symlink_to(other / "data.txt")
    with refusal(ForeignArtifact, str(snapshot / "data.txt")):
        open_artifact(snapshot, "vocab")


def test_a_parquet_file_that_the_manifest_does_not_name_is_refused(vocab):
    """Parts of `tokens/` are found by their names: one more would be read, and no hash tells of it."""
    (vocab / "part-99999-0000.parquet").write_text("more")
    for look in (lambda: open_artifact(vocab, "vocab"), lambda: verify_artifact(vocab, silent)):
        with refusal(ForeignArtifact, str(vocab / "part-99999-0000.parquet"), "manifest.json"):
            look()


def test_a_link_out_of_a_version_or_of_what_is_published_is_refused(tmp_path):
    name, work = tmp_path / "registry" / "law", tmp_path / "work"
    work.mkdir()
    version = publish_small(name, work, 1).version
    path = version.folder / "vocab" / "data.txt"
    linked_out(path, tmp_path)
    for look in (
        lambda: check_version(version, silent, hashes=False),
        lambda: fetch_version(name, tmp_path / "fetched", silent),
    ):
        with refusal(ForeignArtifact, str(path)):
            look()
    parts = parts_of(work, 2)
    linked_out(work / "eval" / "data.txt", tmp_path)
    with refusal(ForeignArtifact, str(work / "eval" / "data.txt")):
        publish_version(name, parts, {}, silent)
    assert [each.name for each in versions(name)] == [version.name]
    assert not (tmp_path / "fetched").exists()


def test_a_version_is_called_as_its_folder(tmp_path):
    """The link `current` is made of the name."""
    name = tmp_path / "registry" / "law"
    (tmp_path / "work").mkdir()
    version = publish_small(name, tmp_path / "work", 1).version
    facts = json.loads((version.folder / "version.json").read_text())
    del facts["sha256"]
    (version.folder / "version.json").write_text(facts_text(facts | {"version": "../../../elsewhere"}))
    for look in (lambda: versions(name), lambda: roll_back(name)):
        with refusal(ForeignArtifact, str(version.folder / "version.json"), "../../../elsewhere"):
            look()
