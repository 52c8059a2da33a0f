"""A server process for tests of the transport, and a scripted runtime under the real application."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd import runtime
from mlxd.api import policy
from tests.hubs import Hub, serving
from tests.integration.api_scripted import StandIn
from tests.integration.cli_peer import Peer
from tests.integration.fetched import FILES, Fetched, as_new
from tests.integration.transport_client import PATIENT, SHORT, Served, start


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as they found it."""
    yield from one_server(tmp_path_factory.mktemp("served"), PATIENT)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """As `served`, but one that waits for nobody."""
    yield from one_server(tmp_path_factory.mktemp("hasty"), SHORT)


def one_server(directory: Path, limits: dict[str, Any]) -> Iterator[Served]:
    server = start(directory, limits=limits)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert "secret" not in server.log
    assert "unhandled" not in server.log
    assert "too long to shut down" not in server.log


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of one test's own."""
    servers: list[Served] = []

    def begin(**options: Any) -> Served:
        servers.append(start(tmp_path, **options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()
        assert "unhandled" not in server.log
        assert "Traceback" not in server.log


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    yield made
    runtime.install(None)
    policy.install(policy.Policy())


@pytest.fixture
def home(tmp_path):
    """An environment of its own: no settings, an empty model cache, a fresh state directory."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLXD_", "HF_"))}
    return environ | {"HF_HOME": str(tmp_path / "hf"), "MLXD_STATE_DIR": str(tmp_path / "state"), "TERM": "xterm"}


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.endless = False
    peer.server.shutdown()
    peer.server.server_close()


@pytest.fixture(scope="module")
def served_model() -> Iterator[Hub]:
    with serving(FILES) as hub:
        yield hub


@pytest.fixture
def hub(served_model: Hub) -> Hub:
    """A hub with one model, as it was at first."""
    return as_new(served_model)


@pytest.fixture
def fetched(hub: Hub, tmp_path: Path) -> Iterator[Fetched]:
    made = Fetched(hub, tmp_path / "models--o--tiny")
    yield made
    made.client.close()
