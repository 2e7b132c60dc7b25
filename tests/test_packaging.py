"""What is installed and what is handed on: the wheel stands alone, the sdist has all that its tests read."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = ("scone_cli", "pipelines", "tests", "benchmarks", "docs")
FILES = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "LICENSE",
    "Makefile",
    ".gitignore",
)
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist'); build_meta.build_sdist('dist')"


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources with what was built of them in `dist/`."""
    copy = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, copy)
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=copy, check=True, capture_output=True)
    return copy


def test_every_room_is_a_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {f"scone_cli.{path.parent.name}" for path in (ROOT / "scone_cli").glob("*/__init__.py")}
    assert sorted(listed) == sorted({"scone_cli", "scone_cli.pipelines"} | rooms)


def test_the_wheel_has_the_package_and_the_recipes(source, tmp_path):
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path], check=True)
    expected = {f"scone_cli/pipelines/{name}": path for name, path in files(source / "pipelines").items()}
    expected |= {f"scone_cli/{name}": path for name, path in files(source / "scone_cli").items()}
    found = {name: path for name, path in files(tmp_path).items() if ".dist-info/" not in name}
    assert found.keys() == expected.keys()
    assert all(path.read_bytes() == expected[name].read_bytes() for name, path in found.items())
    with zipfile.ZipFile(wheel) as packed:
        mode = packed.getinfo("scone_cli/pipelines/cron/scone-rebuild").external_attr >> 16
    assert mode & 0o111 == 0o111
    printed = subprocess.run(
        [sys.executable, "-P", "-m", "scone_cli", "recipe", "tiny"],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path.parent,
        capture_output=True,
        check=True,
    )
    assert printed.stdout == (ROOT / "pipelines/tiny.toml").read_bytes()


def test_the_sdist_has_all_that_its_tests_read(source):
    (sdist,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        found = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {*FILES, *(f"{folder}/{name}" for folder in FOLDERS for name in files(source / folder))}
    assert wanted <= found
