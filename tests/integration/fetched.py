"""One cache and the hub it is filled from; nobody sleeps, however busy the hub is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.errors import InferenceError
from mlxd.catalog.fetch import Hub as HubClient
from mlxd.catalog.fetch import Progress, Waiting, fetch
from mlxd.catalog.fetch.backoff import Backoff
from tests.hubs import Hub, entry

WEIGHTS = random.Random(7).randbytes(1_200_000)
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": WEIGHTS, "README.md": b"#", "run.py": b"boom"}
WANTED = {"config.json", "model.safetensors"}


def as_new(hub: Hub) -> Hub:
    hub.twist = lambda _path, reply: reply
    hub.entries = [entry(name, body) for name, body in FILES.items()]
    hub.asked.clear()
    return hub


class Fetched:
    """One cache, and what it took to fill it."""

    def __init__(self, hub: Hub, folder: Path, token: str | None = None) -> None:
        self.folder = folder
        self.waits: list[Waiting] = []
        self.steps: list[Progress] = []
        self.client = client(hub.url, token, self.waits.append)

    def run(self, told: Callable[[Progress], None] | None = None) -> Path:
        return fetch(self.client, "o/tiny", self.folder, told or self.steps.append)

    def refusal(self) -> InferenceError:
        """Nothing that could be taken for a model is left by it."""
        with pytest.raises(InferenceError) as caught:
            self.run()
        assert not (self.folder / "refs").exists() and not (self.folder / "snapshots").exists()
        return caught.value


def client(endpoint: str, token: str | None = None, told: Callable[[Waiting], None] = lambda _: None) -> HubClient:
    return HubClient(endpoint, token, told, lambda told: Backoff(told, lambda _s: None))


def is_whole(path: Path) -> bool:
    return {file.name: file.read_bytes() for file in path.iterdir()} == {name: FILES[name] for name in WANTED}
