"""A published artifact, made anew for each test."""

import pytest
from published import make


@pytest.fixture
def vocab(tmp_path):
    target = tmp_path / "work" / "vocab"
    make(target)
    return target
