"""docs/operations.md from its first command to its last, in other folders."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_scone import environment
from workspaces import texts

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "operations.md"


def commands(folder: Path) -> str:
    """All commands of the page as one script."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script, programs = "".join(blocks), Path(sys.executable).parent
    assert len(blocks) > 6
    for place, instead in (
        ("scone recipe tiny", "scone recipe tiny | sed 's/^steps = .*/steps = 20/'"),
        ("/opt/scone/pipelines/cron/scone-rebuild", "env -i /opt/scone/pipelines/cron/scone-rebuild"),  # as cron
        ("/opt/scone/.venv/bin", programs),
        ("cron/scone-rebuild ", f"cron/scone-rebuild SCONE={programs}/scone "),
        ("/opt/scone", ROOT),
        ("/data", folder / "data"),
        ("/etc/scone", folder / "etc"),
        ("/srv/scone", folder / "srv"),
    ):
        assert place in script
        script = script.replace(place, str(instead))
    return script


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder in which the commands worked, and how they ended."""
    folder = tmp_path_factory.mktemp("operations")
    for name in ("data/corpus", "data/incoming", "etc", "srv"):
        (folder / name).mkdir(parents=True)
    pages = texts()
    for number, text in enumerate(pages):
        place = "incoming" if number % 20 == 0 else "corpus"
        (folder / "data" / place / f"{number}.txt").write_bytes(text.encode())
    (folder / "data" / "corpus" / "forget-me.txt").write_text("The zyxwvut of Quibblethorpe is 4711. " * 40)
    ended = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands(folder)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=folder,
    )
    return folder, ended


@pytest.mark.slow
def test_all_commands_work(done):
    _, ended = done
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout[-2000:]
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.slow
def test_nights_train_nothing_and_publish(done):
    folder, _ = done
    log = "".join(path.read_text() for path in (folder / "data/scone-work/logs").glob("*.log"))
    assert not re.search(r"^\S*scone .*train-fgram", log, re.MULTILINE)  # the verdict may advise to train
    assert log.count("publish -> ") == 2
    versions = [path for path in (folder / "srv/english/versions").iterdir() if not path.name.startswith(".")]
    assert len(versions) == 1  # KEEP=1, after the request to delete
    manifest = json.loads((versions[0] / "table" / "manifest.json").read_text())
    model = json.loads((folder / "data/scone-work/model/manifest.json").read_text())
    assert manifest["inputs"]["model"] == model["fingerprint"]
    assert manifest["inputs"]["vocab"] != model["inputs"]["vocab"]


@pytest.mark.slow
def test_what_was_forgotten_is_in_no_artifact_of_text(done):
    folder, ended = done
    before, after = re.findall(r"^audit .*", ended.stdout, re.MULTILINE)
    assert before.endswith(": not clean")
    assert after.endswith(": clean")
    for path in (folder / "data/scone-work").rglob("*"):
        if path.is_file() and path.suffix in {".json", ".html", ".jsonl"} and path.name != "manifest.json":
            assert "Quibblethorpe" not in path.read_text(errors="replace"), path
