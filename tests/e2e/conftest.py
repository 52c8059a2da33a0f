"""One daemon with a tiny real model for the tests that only ask, and a factory for those that break things."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.daemon import ServedDaemon
from tests.e2e.doors import SCRIPT, Guarded
from tests.e2e.scripted_client import SCRIPTED, Serve
from tests.tiny_models import build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A daemon is ready after 2 s alone, and after 80 s beside ten others; some tests start four."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "tiny", "dense")


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServedDaemon]:
    state_dir = tmp_path_factory.mktemp("shared-daemon") / "state"
    with ServedDaemon(state_dir, ["--model", str(tiny_model)]) as served:
        served.wait_ready()
        yield served
        assert served.process.poll() is None, "a test has ended the daemon"


@pytest.fixture
def client(daemon: ServedDaemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0, timeout=60) as sdk:
        yield sdk


@pytest.fixture
def serve(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., ServedDaemon]]:
    """Starts a daemon of this test's own; `serve("--max-batch", "1")`."""
    started: list[ServedDaemon] = []

    def start(*arguments: str, model: Path | None = tiny_model, **more: object) -> ServedDaemon:
        named = [] if model is None else ["--model", str(model)]
        served = ServedDaemon(tmp_path / f"state{len(started)}", [*named, *arguments], **more)  # type: ignore[arg-type]
        started.append(served)
        return served.__enter__()

    yield start
    for served in started:
        served.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    state = tmp_path_factory.mktemp("guarded") / "state"
    with ServedDaemon(state, ["--demo", "--require-key"], SCRIPTED, SCRIPT) as served:
        served.wait_ready()
        made = [
            httpx.post(
                f"{served.url}/api/keys", headers=served.admin, json={"name": scope, "scopes": [scope]}, timeout=60
            ).json()
            for scope in ("infer", "admin")
        ]
        infer, admin = ({"Authorization": f"Bearer {key['key']}"} for key in made)
        opened = Guarded(served, infer, admin)
        yield opened
        opened.client.close()
        assert served.process.poll() is None, "a request has ended the daemon"


@pytest.fixture
def scripted(serve: Serve) -> Serve:
    """Starts a daemon whose engine follows a script: `scripted({"decode_s": 0.05}, "--max-batch", "1")`."""

    def start(script: dict[str, Any], *arguments: str) -> ServedDaemon:
        environment = {"SCRIPT": json.dumps(script)}
        served = serve(*arguments, command=SCRIPTED, environment=environment)
        served.wait_ready()
        return served

    return start
