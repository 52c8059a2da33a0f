"""The limits of the prefix cache, changed by an admin while a real engine keeps to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.engine.loader import MlxLoader
from inference.engine.settings import EngineSettings
from inference.engine.text import load_text
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd.config import BY_NAME, Config
from mlxd.config.load import LoadedConfig, Origin, load
from mlxd.live_settings import DISK, STORE, LiveSettings, cache_settings
from mlxd.runtime import Runtime
from mlxd.saved_settings import read_saved
from mlxd.served import served_models
from mlxd.wiring import disk_settings
from tests import tiny_models
from tests.integration.api_scripted import Answer, get, post
from tests.integration.installed import ADMIN, installed

LIMIT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("sound") / "sound", "dense")


def serving(sound: Path, config: Config, beneath: LoadedConfig | None = None) -> Runtime:
    settings = EngineSettings(
        cache=cache_settings(config),
        memory_limit_bytes=LIMIT_BYTES,
        disk=disk_settings(config) if config.ssd_cache_bytes else None,
    )
    live = LiveSettings(
        LoadedConfig(config, dict.fromkeys(BY_NAME, Origin.DEFAULT), (), beneath), config.state_dir / "settings.json"
    )
    scheduler = Scheduler(lambda: MlxLoader(settings), SchedulerSettings())
    made = Runtime(served_models([("sound", sound)]), scheduler, Preparer(), load_text, settings=live)
    scheduler.start()
    return made


@pytest.fixture
def running(sound: Path, tmp_path: Path) -> Iterator[Runtime]:
    with installed(serving(sound, Config(state_dir=tmp_path))) as made:
        yield made


async def change(**changes: Any) -> Answer:
    return await post("/api/settings", changes, headers=ADMIN)


async def totals() -> Any:
    return (await get("/api/cache/stats", headers=ADMIN)).json()["totals"]


async def cached_tokens() -> int:
    answer = await post("/v1/completions", {"prompt": "Say it. " * 150, "max_tokens": 2})
    assert answer.status == 200, answer.body
    return int(answer.headers["x-conv-cached-tokens"])


async def test_a_smaller_memory_holds_at_once_and_can_be_taken_back(running: Runtime, tmp_path: Path) -> None:
    assert await cached_tokens() == 0 < await cached_tokens()
    assert (await totals())["held_bytes"] > 0
    changed = (await change(cache_memory_bytes="1KiB", cache_side_memory_bytes=0)).json()["settings"]
    assert [(row["value"], row["source"], row["effect"]) for row in changed] == [
        (1024, "saved", "live"),
        (0, "saved", "live"),
    ]
    assert ((await totals())["held_bytes"], (await totals())["budget_bytes"]) == (0, 1024)
    assert await cached_tokens() == await cached_tokens() == 0
    again = load({}, tmp_path, read_saved(tmp_path / "settings.json").knobs)
    assert (again.config.cache_memory_bytes, again.origins["cache_memory_bytes"]) == (1024, Origin.SAVED)
    assert (await change(cache_memory_bytes=None, cache_side_memory_bytes=None)).status == 200
    assert (await totals())["budget_bytes"] == LIMIT_BYTES // 3
    assert await cached_tokens() == 0 < await cached_tokens()


async def test_what_the_store_has_done_is_counted(running: Runtime) -> None:
    assert await cached_tokens() == 0
    again = await cached_tokens()
    cache = (await get("/api/counters", headers=ADMIN)).json()["cache"]
    assert (cache["requests"], cache["cached_tokens"]) == (2, again) and again > 0
    assert cache["disk"] is None


async def test_a_change_that_is_refused_leaves_the_store_alone(running: Runtime) -> None:
    await cached_tokens()
    before = await totals()
    for wrong in ({"cache_memory_bytes": 0, "top_p": 9}, {"cache_memory_bytes": True}, {"cache_ttl_s": -1}):
        assert (await change(**wrong)).refusal["code"] == "invalid_setting"
    for never in ("cache_memory_bytes", "ssd_cache_bytes"):
        assert (await change(**{never: 0})).refusal["param"] == never
    after = await totals()
    assert {**after, "requests": before["requests"]} == before


async def test_where_nothing_is_kept_there_is_nothing_to_limit(sound: Path, tmp_path: Path) -> None:
    with installed(serving(sound, Config(state_dir=tmp_path, cache_memory_bytes=0))):
        for name in STORE | DISK:
            refused = await change(**{name: 1})
            assert refused.status == 400 and refused.refusal["param"] == name
            assert (await change(**{name: None})).status == 200, "what was saved can be taken back"
        rows = {row["name"]: row["effect"] for row in (await get("/api/settings", headers=ADMIN)).json()["settings"]}
    assert rows["prefill_step_tokens"] == rows["max_batch"] == "restart"


async def test_the_disk_keeps_to_other_limits_at_once(sound: Path, tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, ssd_cache_bytes=1 << 30, ssd_cache_daily_bytes=0)
    beneath = LoadedConfig(Config(state_dir=tmp_path, ssd_cache_bytes=0), dict.fromkeys(BY_NAME, Origin.ENVIRONMENT))

    async def disk() -> Any:
        return (await get("/api/cache/stats", headers=ADMIN)).json()["disk"]

    async def come(is_so: Callable[[Any], bool]) -> None:
        """Its thread comes to it."""
        async with asyncio.timeout(60):
            while not is_so(await disk()):
                await asyncio.sleep(0.01)

    async def limited(**changes: int) -> None:
        assert (await change(**changes)).status == 200
        await come(lambda told: told["limit_bytes"] == changes["ssd_cache_bytes"])

    with installed(serving(sound, config, beneath)):
        await cached_tokens()
        await come(lambda told: told["files"] > 0)
        async with asyncio.timeout(60):
            while not (await get("/api/counters", headers=ADMIN)).json()["cache"]["disk"]["written"]:
                await asyncio.sleep(0.01)
        taken_back = await change(ssd_cache_bytes=None, ssd_cache_daily_bytes=2 << 20)
        assert next((row["value"], row["source"]) for row in taken_back.json()["settings"]) == (0, "environment")
        await come(lambda told: told["day_bytes"] == 2 << 20)
        told = await disk()
        assert told["limit_bytes"] == 1 << 30 and told["files"] > 0, "a 0 beneath what was saved takes a start"
        await limited(ssd_cache_bytes=1024, ssd_cache_daily_bytes=1 << 20)
        await come(lambda told: (told["files"], told["day_bytes"]) == (0, 1 << 20))
        for never in ({"ssd_cache_bytes": 0}, {"ssd_cache_bytes": 0, "top_k": 3}):
            assert (await change(**never)).refusal["param"] == "ssd_cache_bytes"
        await limited(ssd_cache_bytes=1 << 29)
