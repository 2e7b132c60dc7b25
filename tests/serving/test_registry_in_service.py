"""A registry under load: two processes of four threads read, while versions are published, rolled back and pruned."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import registries
from registries import parts_of

from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.publish_version import publish_version
from scone_cli.artifacts.registry import current_name, versions
from scone_cli.progress import silent

CHANGES = 1000


@pytest.mark.slow
def test_no_read_fails_and_no_versions_mix_in_a_thousand_changes(tmp_path, monkeypatch):
    for module in ("publish", "publish_version", "current_version"):
        monkeypatch.setattr(f"scone_cli.artifacts.{module}.fsync", lambda _: None)  # a loss of power is not tested here
    name, works = tmp_path / "registry" / "law", list[dict[str, Path]]()
    for number in range(8):
        (tmp_path / f"work-{number}").mkdir()
        works.append(parts_of(tmp_path / f"work-{number}", number))
    publish_version(name, works[0], {}, silent)
    services = [_service(name) for _ in range(2)]
    chance, done = random.Random(0), Counter[str]()
    for change in range(CHANGES):
        if change % 4 == 3 and len(versions(name)) > 1:
            current = current_name(name)
            others = [version.name for version in versions(name) if version.name != current]
            assert roll_back(name, chance.choice(others))[1] == current
            done["rollbacks"] += 1
        else:
            found = publish_version(name, chance.choice(works), {}, silent, keep=2)
            done["published"] += found.is_new
            done["pruned"] += len(found.pruned)
            done["kept for readers"] += len(found.in_use)
    seen = [_ended(service) for service in services]
    print(json.dumps({**done, "services": seen}))  # noqa: T201
    assert done["rollbacks"] > CHANGES // 5
    assert done["pruned"] > CHANGES // 10
    assert len(versions(name)) < 20, "what nobody reads is pruned"
    for each in seen:
        assert each["requests"] > CHANGES // 2
        assert each["moves"] > CHANGES // 20
        assert each["opened"] > 10
        assert each["versions"] == len(works)


def _service(name: Path) -> subprocess.Popen[str]:
    command = [sys.executable, registries.__file__, str(name), "4"]
    path = os.pathsep.join(each for each in sys.path if each)
    service = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert service.stdout.readline() == "serving\n", service.communicate()[1]
    return service


def _ended(service: subprocess.Popen[str]) -> dict[str, int]:
    out, err = service.communicate()
    assert (service.returncode, err) == (0, "")
    found: dict[str, int] = json.loads(out)
    return found
