"""Models, memory and changed files with a real engine: what is refused, what is left, and where the bytes are."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.engine.loader import MlxLoader
from inference.engine.settings import CacheSettings, EngineSettings
from inference.engine.text import load_text
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd.config import Config
from mlxd.live_settings import LiveSettings
from mlxd.load_deaths import LoadDeaths, NotedLoader
from mlxd.runtime import Runtime
from mlxd.seals import Seals
from mlxd.served import served_models
from tests import tiny_models
from tests.device import settled_bytes
from tests.integration.api_scripted import Call, get, post
from tests.integration.installed import ADMIN, installed

LIMIT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("sound") / "sound", "dense")


@pytest.fixture
def running(sound: Path, tmp_path: Path) -> Iterator[Runtime]:
    seals, deaths = Seals(), LoadDeaths(tmp_path / "loads.json")
    settings = EngineSettings(cache=CacheSettings(memory_bytes=1 << 24), memory_limit_bytes=LIMIT_BYTES)
    scheduler = Scheduler(
        lambda: NotedLoader(MlxLoader(settings), deaths, seals), SchedulerSettings(max_models=2, load_retry_s=0.0)
    )
    live = LiveSettings.alone(Config(state_dir=tmp_path, model_roots=(str(tmp_path),), max_models=2))
    made = Runtime(
        served_models([("sound", sound)]),
        scheduler,
        Preparer(),
        load_text,
        strict_models=True,
        seals=seals,
        settings=live,
    )
    made.apply_rules()
    scheduler.start()
    with installed(made):
        yield made


async def order(path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = await post(path, body, headers=ADMIN)
    assert answer.status == status, answer.body
    return answer.json()


async def asked(model: str, **fields: Any) -> Any:
    return await post("/v1/completions", {"model": model, "prompt": "Say it. " * 150, "max_tokens": 4, **fields})


SPOILED = {
    "model.safetensors": lambda file: os.truncate(file, file.stat().st_size // 2),
    "config.json": lambda file: file.write_text("{"),
    "tokenizer.json": lambda file: file.write_text("[]"),
}


@pytest.mark.parametrize("name", SPOILED)
async def test_a_spoiled_model_is_refused_by_its_file_while_another_serves(
    running: Runtime, sound: Path, tmp_path: Path, name: str
) -> None:
    await order("/api/models/load", {"model_id": "sound"})
    before = running.scheduler.snapshot().memory
    spoiled = Path(shutil.copytree(sound, tmp_path / "spoiled"))
    SPOILED[name](spoiled / name)
    refused = await order("/api/models/load", {"model_id": "spoiled"}, 400)
    assert refused["error"]["code"] == "invalid_model" and name in refused["error"]["message"]
    assert (await asked("sound")).status == 200 and (await asked("spoiled")).status == 404
    assert before is not None
    shutil.copy(sound / name, spoiled / name)
    assert (await order("/api/models/load", {"model_id": "spoiled"}))["model"]["state"] == "ready", "it was repaired"


async def test_a_model_that_can_never_fit_is_refused_with_both_figures(running: Runtime, tmp_path: Path) -> None:
    large = tiny_models.build(tmp_path / "large", "dense", hidden_size=64, vocab_size=250_000)
    refused = await order("/api/models/load", {"model_id": str(large)}, 400)
    assert refused["error"]["code"] == "model_too_large"
    assert "64 MiB may be used" in refused["error"]["message"] and "weights" in refused["error"]["message"]
    assert not running.scheduler.snapshot().models or running.scheduler.snapshot().model("large") is not None


async def test_the_account_explains_what_a_real_engine_holds(running: Runtime) -> None:
    """Conversations in the store, no row left: all but a few pages is accounted for. Other tests of this process may
    have left something on the device."""
    left_bytes = settled_bytes()
    await order("/api/models/load", {"model_id": "sound"})
    for name in ("one", "two"):
        body = {
            "messages": [{"role": "user", "content": f"{name}: " + "Say it. " * 400}],
            "max_tokens": 4,
            "model": "sound",
        }
        assert (await post("/v1/chat/completions", {**body, "conversation_id": name, "tools": TOOLS})).status == 200
    statement = await memory_at_rest(left_bytes)
    account = statement["account"]
    assert account["blocks_bytes"] > 0 == account["rows_bytes"] and account["weights_bytes"] > 0
    assert explained(account, left_bytes), (account, left_bytes)
    sessions = statement["sessions"]
    assert len(sessions) == 2 and all(one["nbytes"] > 0 for one in sessions)
    assert sum(one["nbytes"] for one in sessions) >= account["blocks_bytes"], "what both stand on counts twice"
    assert statement["process"]["footprint_bytes"] > account["active_bytes"]


def explained(account: dict[str, int], left_bytes: int) -> bool:
    return abs(account["unexplained_bytes"] - left_bytes) <= 0.05 * (account["active_bytes"] - left_bytes)


async def memory_at_rest(left_bytes: int, limit_s: float = 60.0) -> Any:
    """The statement once what the last row held is given back; the worker's view is a step behind its last event,
    and whoever asks a worker that is busy does without what only it can tell."""
    until_s = time.monotonic() + limit_s
    while True:
        statement = (await get("/api/memory", headers=ADMIN)).json()
        is_whole = statement["sessions"] and explained(statement["account"], left_bytes)
        if is_whole or time.monotonic() > until_s:
            return statement
        await asyncio.sleep(0.5)


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


async def test_files_that_changed_while_their_model_was_out_take_an_order(
    running: Runtime, sound: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(sound, tmp_path / "mine"))
    await order("/api/models/load", {"model_id": "mine"})
    await running_unload(running)
    assert (await asked("mine")).status == 200
    receipt = running.scheduler.unload("mine").result(60)
    assert receipt is not None, "it left for another's sake, and nobody ordered anything"
    tiny_models.build(place, "dense", seed=99)
    refused = await asked("mine")
    assert (refused.status, refused.refusal["code"]) == (409, "model_changed")
    assert refused.headers["x-should-retry"] == "false"
    await order("/api/models/load", {"model_id": "mine"})
    assert (await asked("mine")).status == 200


async def running_unload(running: Runtime) -> None:
    unloaded = await order("/api/models/unload", {})
    assert unloaded["unloaded"] and all(one["freed_bytes"] >= one["weights_bytes"] for one in unloaded["unloaded"])


async def test_settings_of_a_model_reach_the_engine(running: Runtime, tmp_path: Path) -> None:
    tiny_models.build(tmp_path / "wide", "dense", head_dim=64, num_attention_heads=2, num_key_value_heads=1)
    await order("/api/models/load", {"model_id": "wide"})
    raw = json.dumps({"sampling": {"temperature": 0.0, "max_tokens": 3}, "kv_bits": 8, "kv_group_size": 32}).encode()
    assert (await Call("PUT", "/api/settings/models/wide", raw, headers=ADMIN).start().result()).status == 200
    answer = await post("/v1/completions", {"model": "wide", "prompt": "Say it. " * 150})
    assert answer.status == 200 and answer.json()["usage"]["completion_tokens"] == 3
    stats = (await get("/api/cache/stats", headers=ADMIN)).json()
    assert {use["settings"] for use in stats["models"]} == {"8/32/0"}
