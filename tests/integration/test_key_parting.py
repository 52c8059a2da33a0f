"""Two keys on one engine: neither learns, from what is reported or from how long it takes, what the other has asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.engine.loader import MlxLoader
from inference.engine.settings import CacheSettings, EngineSettings
from inference.engine.text import load_text
from inference.scheduler import Scheduler
from mlxd import runtime
from mlxd.api import policy
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.key import Usage, make_key
from mlxd.keys.keyring import Keyring
from mlxd.runtime import Runtime, ServedModel
from tests import tiny_models
from tests.integration.api_scripted import Answer, Call, post

CHAT = "/v1/chat/completions"
SECRETS = 24
COMMON = 100
"""More tokens than any two of the texts begin with."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    path = tiny_models.build(tmp_path_factory.mktemp("parting"), "dense")
    settings = EngineSettings(cache=CacheSettings(memory_bytes=1 << 26))
    made = Runtime((ServedModel("tiny", path, 1),), Scheduler(lambda: MlxLoader(settings)), Preparer(), load_text)
    made.scheduler.start()
    made.scheduler.load(made.models[0].ref).result(60)
    yield made
    made.close()


@pytest.fixture
def keys(engine: Runtime) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    made = [make_key(name, lambda _: False) for name in ("alice", "bob")]
    access.install(Access(Keyring(None, [(key, Usage()) for _, key in made])))
    policy.install(policy.Policy(secret=b"the daemon's"))
    runtime.install(engine)
    alice, bob = ({"x-api-key": secret} for secret, _ in made)
    yield alice, bob
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


async def ask(text: str, headers: dict[str, str]) -> Answer:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    answer = await post(CHAT, body, headers=headers)
    assert answer.status == 200, answer.body
    return answer


def text(number: int) -> str:
    return f"Number {number:03}: {'what the user said and the answer is written. ' * 12}"


async def probed(asked: set[int], by: dict[str, str], prober: dict[str, str]) -> set[tuple[bool, str, bool]]:
    """For each text: whether it was asked before, the verdict the prober was told, and whether much of it was warm."""
    for number in asked:
        await ask(text(number), by)
    told = set()
    for number in range(SECRETS):
        headers = (await ask(text(number), {**prober, "x-conv-id": f"probe {number}"})).headers
        told.add((number in asked, headers["x-mlxd-verdict"], int(headers["x-conv-cached-tokens"]) > COMMON))
    return told


async def test_no_key_is_told_what_another_has_asked(keys: tuple[dict[str, str], dict[str, str]]) -> None:
    alice, bob = keys
    asked = set(Random(5).sample(range(SECRETS), SECRETS // 2))
    assert await probed(asked, alice, bob) == {(True, "first_seen", False), (False, "first_seen", False)}
    warm = [int((await ask(text(number), alice)).headers["x-conv-cached-tokens"]) for number in asked]
    assert min(warm) > COMMON, "and its own is still there"


async def test_without_salts_it_would_be(
    keys: tuple[dict[str, str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxd.keys.key.ApiKey.salt", lambda key, secret: b"one for all")
    told = await probed({0, 1, 2}, *keys)
    assert {warm for was_asked, _, warm in told if was_asked} == {True}


async def test_those_without_a_key_share_with_each_other_and_with_no_key(
    keys: tuple[dict[str, str], dict[str, str]],
) -> None:
    alice, _ = keys
    for headers, other in ((alice, {}), ({}, alice)):
        said = text(900 + len(headers))
        await ask(said, headers)
        assert int((await ask(said, other)).headers["x-conv-cached-tokens"]) < COMMON
    assert int((await ask(text(900), {"authorization": "Bearer any"})).headers["x-conv-cached-tokens"]) > COMMON


async def test_an_admin_asks_and_clears_for_a_key_by_its_name(keys: tuple[dict[str, str], dict[str, str]]) -> None:
    alice, _ = keys
    policy.install(policy.Policy(secret=b"the daemon's", admin_digest=policy.digest("mlxd_admin_x")))
    await ask(text(800), {**alice, "x-conv-id": "hers"})
    body = {"messages": [{"role": "user", "content": text(800)}]}

    async def cached_tokens(owner: str) -> int:
        told = await asked_for("/api/cache/explain", body, owner)
        assert told.status == 200, told.body
        return int(told.json()["cached_tokens"])

    assert await cached_tokens("alice") > COMMON > max(await cached_tokens("bob"), await cached_tokens(""))
    assert (await asked_for("/api/cache/explain", body, "nobody")).status == 404
    for owner, goes in (("bob", False), ("", False), ("alice", True)):
        told = await asked_for("/api/cache/clear", {"session": "hers"}, owner)
        assert (told.json()["cleared"]["tokens"] > 0) is goes, owner


async def asked_for(path: str, body: dict[str, Any], owner: str) -> Answer:
    call = Call("POST", path, json.dumps(body).encode(), {"authorization": "Bearer mlxd_admin_x"})
    call.scope["query_string"] = f"owner={owner}".encode()
    return await call.start().result()
