"""What the store costs: a lookup in 100,000 tokens, and the memory that twelve branches of one prefix hold at rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from inference.engine.text import load_text
from mlxd.probe.asks import Ask, Message
from mlxd.probe.client import ask
from mlxd.probe.content import prose
from mlxd.probe.oracle import Oracle
from tests.benchmarks.figure import Figure, Spread, at_most
from tests.benchmarks.processes import mlxd
from tests.benchmarks.scenario_models import MODELS, scenario_model
from tests.e2e.daemon import ServedDaemon
from tests.unit.test_cache_speed import LONG, ROOT, stored

LOOKUPS: Final = 50
LOOKUP_MS: Final = 10.0
BRANCHES: Final = 12
PREFIX_WORDS: Final = 2800
ANSWER_TOKENS: Final = 16
MEMORY: Final = 1.05
SETTLE_S: Final = 30.0


def run() -> Iterator[Figure]:
    yield lookup()
    for kind in MODELS:
        yield from at_rest(kind)


def lookup() -> Figure:
    """The whole depth is there, beside 199 conversations that part from it near its end. Processor time: one thread."""
    driver, ids = stored(branches=200)
    prompt = (*ids, 1, 2)
    took_ms, wall_ms = list[float](), list[float]()
    for _ in range(LOOKUPS):
        began_s, wall_s = time.thread_time(), time.perf_counter()
        reuse = driver.cache.lookup(ROOT, prompt)
        took_ms.append((time.thread_time() - began_s) * 1e3)
        wall_ms.append((time.perf_counter() - wall_s) * 1e3)
        assert reuse.depth_tokens == LONG
    detail = f"200 conversations of one prefix; wall time {Spread.of(wall_ms)} ms"
    return at_most("lookup at 100,000 tokens", took_ms, LOOKUP_MS, detail, "ms")


def at_rest(kind: str) -> Iterator[Figure]:
    """Memory beyond weights and snapshots: of the store's blocks, and of the bytes that each token's KV takes once.

    The prefix ends in the middle of a block, as they do.
    """
    model = scenario_model(kind)
    with mlxd(model, threads=2) as served, administrator(served) as http:
        weights = at_ease(http)["memory"]["active_bytes"]
        tokens = branch_out(served, model)
        view = at_ease(http)
    store = view["store"]
    held = view["memory"]["active_bytes"] - weights - store["snapshot_bytes"]
    blocks, once = store["block_bytes"] + store["side_bytes"], tokens * token_bytes(model)
    detail = f"{held / 1e6:.2f} MB, blocks {blocks / 1e6:.2f}, {tokens} tokens {once / 1e6:.2f}"
    detail += f", snapshots {store['snapshot_bytes'] / 1e6:.2f}"
    yield at_most(f"{kind}: at rest, of the blocks", [held / blocks], MEMORY, detail)
    yield at_most(f"{kind}: at rest, each token once", [held / once], MEMORY, f"{BRANCHES} branches of one prefix")


def administrator(served: ServedDaemon) -> httpx.Client:
    token = (served.state_dir / "admin.token").read_text().strip()
    return httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {token}"}, timeout=10)


def at_ease(http: httpx.Client) -> dict[str, Any]:
    """The scheduler's view once nothing runs and its memory has not changed for two seconds."""
    until_s, since_s, last = time.monotonic() + SETTLE_S, time.monotonic(), -1
    while time.monotonic() < until_s:
        view: dict[str, Any] = http.get("/api/status").raise_for_status().json()["scheduler"]
        active = view["memory"]["active_bytes"]
        if view["rows"] or active != last:
            since_s, last = time.monotonic(), active
        elif time.monotonic() - since_s > 2:
            return view
        time.sleep(0.1)
    raise AssertionError("the daemon did not come to rest")


def branch_out(served: ServedDaemon, model: Path) -> int:
    """The tokens that were computed for the first time: prompts by the probe's oracle, and answers but their last."""
    oracle, tokens = Oracle(load_text(model)), 0
    with httpx.Client(base_url=f"{served.url}/v1", timeout=300) as http:
        for branch in range(BRANCHES):
            messages = opening(branch)
            tokens += oracle.necessary(Ask("", tuple(messages))).tokens + ANSWER_TOKENS - 1
            answered = ask(http, str(model), messages, ANSWER_TOKENS)
            assert answered.completion_tokens == ANSWER_TOKENS, "an answer ended early"
    return tokens


def opening(branch: int) -> list[Message]:
    return [
        {"role": "system", "content": prose("at rest", PREFIX_WORDS)},
        {"role": "user", "content": prose(f"at rest {branch}", 60)},
    ]


def token_bytes(model: Path) -> int:
    """KV of one token in float32, of the layers that keep any."""
    from mlx_lm.models.cache import ArraysCache, make_prompt_cache
    from mlx_lm.utils import load_config, load_model

    config = load_config(model)
    layers = sum(not isinstance(entry, ArraysCache) for entry in make_prompt_cache(load_model(model)[0]))
    return layers * 2 * int(config["num_key_value_heads"]) * int(config["head_dim"]) * 4
