"""Names that would lead somewhere, at every door where a name comes in: refused, and nothing is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.engine.scripted import Script
from mlxd.config import is_model_name, model_argument
from mlxd.runtime import Runtime
from tests.integration.api_scripted import Call
from tests.integration.installed import ADMIN
from tests.integration.models_app import complete, serving_models

HOSTILE = [
    "..", "../outside", "../../etc/passwd", "/etc/passwd", "a/../a", "a/..", "./a", "a//b", "a/", "~", "~root/a",
    "a\\b", "a\0b", "a\nb", "%2e%2e%2foutside", "a%00", "∕etc", "‥/outside", "ａ", "a\u202e", "con:/x y", "-rf",
    ".hidden", "a" * 300, "a/" * 1000 + "a",
]  # fmt: skip
"""None is an id, an alias, a session, a turn, a request or a key."""
PATHS = [  # what a client calls a conversation is its own affair, and never a path: a digest of it is
    ("GET", "/v1/models/{}"), ("GET", "/api/settings/models/{}"), ("PUT", "/api/settings/models/{}"),
    ("GET", "/api/sessions/{}"), ("DELETE", "/api/sessions/{}"), ("GET", "/api/turns/{}"),
    ("GET", "/api/turns/{}/against/{}"), ("DELETE", "/api/requests/{}"), ("DELETE", "/api/keys/{}"),
]  # fmt: skip
BODIES = [
    ("/api/models/load", {"model_id": "{}"}),
    ("/api/models/load", {"model_id": "b", "name": "{}"}),
    ("/api/models/unload", {"model_id": "{}"}),
    ("/api/settings", {"model_aliases": ["{}=a"]}),
    ("/api/settings", {"default_model": "{}"}),
    ("/v1/completions", {"model": "{}", "prompt": "Once", "max_tokens": 2}),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with serving_models(tmp_path_factory.mktemp("names"), Script(decode_s=0.001)) as made:
        yield made


def made_of(running: Runtime) -> list[Path]:
    return sorted(Path(running.settings.config.state_dir).rglob("*"))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
async def test_no_door_makes_anything_of_such_a_name(running: Runtime, name: str) -> None:
    before, models = made_of(running), running.models
    orders = [(method, path.format(name, name), b"{}" if method == "PUT" else b"") for method, path in PATHS]
    said = json.dumps(name)[1:-1]
    orders += [("POST", path, json.dumps(body).replace("{}", said).encode()) for path, body in BODIES]
    orders.append(("PUT", "/api/settings/models/a", json.dumps({"aliases": [name]}).encode()))
    answers = {}
    for method, path, body in orders:
        headers = ADMIN if path.startswith("/api/") else {}
        answers[method, path, body] = (await Call(method, path, body, headers=headers).start().result()).status
    assert {order: status for order, status in answers.items() if status not in (400, 404)} == {}
    assert made_of(running) == before and running.models == models
    assert (await complete("a")).status == 200


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_flag_takes_such_a_name(name: str) -> None:
    assert not is_model_name(name)
    assert model_argument(f"{name}=/models/x").name == ""


def test_names_that_people_use_are_names() -> None:
    for name in (
        "qwen",
        "mlx-community/Qwen3-30B-A3B-4bit",
        "gpt-4o",
        "claude-3.5:latest",
        "a@main",
        "o/m+lora",
        "a" * 256,
    ):
        assert is_model_name(name)
