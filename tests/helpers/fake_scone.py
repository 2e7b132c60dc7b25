"""A folder with a recipe and a fake `scone` that notes its calls, for tests of what goes around the stages."""

import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Notes what it was called with; waits in the stage that `hang` names, and fails in those that have a file.
FAKE_SCONE = """#!/bin/sh
echo "$*" >>"$2/calls"
stage=$5
[ ! -s "$2/fail-$stage" ] || exit "$(cat "$2/fail-$stage")"
[ "$stage" != "$(cat "$2/hang" 2>/dev/null)" ] || touch "$2/hanging"
for _ in $(seq 500); do [ ! -e "$2/hanging" ] || sleep 0.02; done
"""


class Rebuild:
    """A folder with a recipe and a fake scone, and rebuild.mk called on it; the paths have blanks and quotes."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.recipe, self.scone = folder / "it's a work", folder / "my recipe.toml", folder / "scone"
        self.workspace.mkdir()
        self.recipe.touch()
        executable(self.scone, FAKE_SCONE)
        self.variables = [f"WORKSPACE={self.workspace}", f"RECIPE={self.recipe}", f"SCONE={self.scone}"]

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        makefile = ROOT / "pipelines/rebuild.mk"
        return call(["make", "-f", str(makefile), *self.variables, "--no-print-directory", *arguments])

    def calls(self) -> list[str]:
        """The stages that were called since the last look, with their arguments."""
        noted = self.workspace / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        noted.unlink(missing_ok=True)
        options = f"--workspace {self.workspace} --config {self.recipe} "
        assert all(line.startswith(options) for line in lines)
        return [line.removeprefix(options) for line in lines]

    def cron(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call(self.cron_command(*arguments))

    def cron_command(self, *arguments: str) -> list[str]:
        return ["env", "-i", str(ROOT / "pipelines/cron/scone-rebuild"), *self.variables, *arguments]

    def log(self) -> str:
        (path,) = (self.workspace / "logs").glob(time.strftime("rebuild-%Y-*.log"))
        return path.read_text()


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def environment() -> dict[str, str]:
    """Ours, without what the make that runs these tests would tell another."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "SCONE"))}


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as cron would, from another folder than ours."""
    return subprocess.run(command, check=False, env=environment(), capture_output=True, text=True, cwd="/")
