"""`mlxd serve --model OWNER/NAME` fetches a model once, from the place the settings name, and serves it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import START_S, ServedDaemon
from tests.hubs import Hub, Reply, serving


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    with serving(files | {"modeling_evil.py": b"raise SystemExit('code of a repository must not come along')"}) as hub:
        yield hub


def test_a_repository_is_fetched_once_and_served(hub: Hub, tmp_path: Path) -> None:
    arguments = ["--model", "o/tiny", "--hf-endpoint", hub.url]
    elsewhere = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # not consulted
    with ServedDaemon(tmp_path / "state", arguments, environment=elsewhere) as daemon:
        listed = daemon.http.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["o/tiny"]
        assert f"Downloading o/tiny from {hub.url}" in daemon.log.read_text()
    assert any("model.safetensors" in name for name in hub.fetched())
    assert not list((tmp_path / "hf").rglob("*.py"))
    hub.asked.clear()
    with ServedDaemon(tmp_path / "state", arguments, environment=elsewhere) as daemon:
        assert "Downloading" not in daemon.log.read_text()
        assert not daemon.http.get("/v1/models/o/tiny").is_error
    assert hub.asked == []
    weights = next((tmp_path / "hf").rglob("snapshots/*/model.safetensors"))
    weights.resolve().unlink()
    with ServedDaemon(tmp_path / "state", arguments, environment=elsewhere) as daemon:
        daemon.wait_ready()
    assert hub.fetched() == ["model.safetensors"], "what was lost was fetched, and no more"


def test_a_killed_start_leaves_no_model_and_the_next_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The hub sends a part of the weights, and then only says that it is busy."""
    weights = hub.files["model.safetensors"]
    part = len(weights) // 2

    def half(path: str, reply: Reply) -> Reply:
        if not path.endswith(".safetensors"):
            return reply
        begun = sum(one.path == path for one in hub.asked) > 1
        return Reply(status=503, headers={"Retry-After": "60"}) if begun else Reply(weights, cut=part)

    hub.twist = half
    arguments = ["--model", "o/tiny", "--hf-endpoint", hub.url]
    cache = {"HF_HOME": str(tmp_path / "hf")}
    daemon = ServedDaemon(tmp_path / "state", arguments, environment=cache)
    until_s = time.monotonic() + START_S
    while "answers 503; trying again in 6" not in daemon.log.read_text():
        assert time.monotonic() < until_s and daemon.process.poll() is None, daemon.log.read_text()
        time.sleep(0.05)
    daemon.kill()
    assert not list((tmp_path / "hf").rglob("snapshots")) and not list((tmp_path / "hf").rglob("refs"))
    hub.twist = lambda _path, reply: reply
    hub.asked.clear()
    with ServedDaemon(tmp_path / "state", arguments, environment=cache) as again:
        assert not again.http.get("/v1/models/o/tiny").is_error
    assert [one.headers.get("range") for one in hub.asked if "/resolve/" in one.path] == [f"bytes={part}-"]


def test_a_repository_that_is_not_there_is_explained(hub: Hub, tmp_path: Path) -> None:
    arguments = ["--model", "o/absent", "--hf-endpoint", hub.url]
    daemon = ServedDaemon(tmp_path / "state", arguments, environment={"HF_HOME": str(tmp_path / "hf")})
    assert daemon.process.wait(START_S) == 2
    said = daemon.log.read_text()
    assert "o/absent could not be downloaded" in said and "Traceback" not in said
    assert not (tmp_path / "hf").exists()
    daemon.kill()
