"""What several of the small tests are given."""

from __future__ import annotations

import pytest

from mlxd.config import Config
from mlxd.doctor import Scene
from mlxd.paths import StateDir


@pytest.fixture
def scene(tmp_path):
    root = tmp_path / "state"
    root.mkdir(mode=0o700)

    def build(environ=None, warnings=(), **knobs):
        return Scene(Config(state_dir=root, **knobs), StateDir(root), environ or {}, tuple(warnings))

    return build
