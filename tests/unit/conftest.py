"""What several of the small tests are given."""

from __future__ import annotations

import os

import pytest

from mlxd.config import Config
from mlxd.doctor import Scene
from mlxd.paths import StateDir, open_state_dir


@pytest.fixture
def scene(tmp_path):
    root = tmp_path / "state"
    root.mkdir(mode=0o700)

    def build(environ=None, warnings=(), **knobs):
        return Scene(Config(state_dir=root, **knobs), StateDir(root), environ or {}, tuple(warnings))

    return build


@pytest.fixture
def state(tmp_path):
    """A state directory, made under the umask of a careful person."""
    old = os.umask(0o077)
    yield open_state_dir(tmp_path / "state")
    os.umask(old)
