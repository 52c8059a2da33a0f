"""What real agents send, through the whole daemon: all of it admitted, and one request of each client answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference.engine.demo import demo_model_dir
from tests.e2e.daemon import ServedDaemon
from tests.e2e.scripted_client import SCRIPTED
from tests.recorded import REQUESTS, has_image, needs_recordings
from tests.tiny_models import build

pytestmark = needs_recordings
CONTEXT_TOKENS = 131_072
NAMES = [name for name, _ in REQUESTS]


@pytest.fixture(scope="module")
def admitting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    """The demo model's tokenizer and template before an engine that reads any prompt at once."""
    limits = {"context_tokens": CONTEXT_TOKENS, "vocab_size": 4096, "kv_bytes_per_token": 1}
    script = json.dumps({"limits": limits, "chunk_tokens": CONTEXT_TOKENS})
    state_dir = tmp_path_factory.mktemp("admitting") / "state"
    with ServedDaemon(state_dir, ["--demo"], SCRIPTED, {"SCRIPT": script}) as served:
        served.wait_ready()
        yield served


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    """A real model of 0.2M random parameters that reads and writes with the demo model's tokenizer and template."""
    folder = tmp_path_factory.mktemp("answering")
    config = json.loads((demo_model_dir() / "config.json").read_text())
    same = {name: config[name] for name in ("vocab_size", "eos_token_id", "max_position_embeddings")}
    small = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}  # 20k-token prompts in seconds
    model = build(folder / "tiny", "dense", **same, **small)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(demo_model_dir() / file, model / file)
    with ServedDaemon(folder / "state", ["--model", str(model)]) as served:
        served.wait_ready()
        yield served


def ask(served: ServedDaemon, body: dict[str, Any], max_tokens: int) -> httpx.Response:
    sent = {**body, "max_tokens": max_tokens}
    sent.pop("max_completion_tokens", None)
    return httpx.post(f"{served.url}/v1/chat/completions", json=sent, timeout=170)


@pytest.mark.parametrize("name", NAMES)
def test_every_request_is_admitted_or_refused_for_what_it_asks(admitting: ServedDaemon, name: str) -> None:
    body = dict(REQUESTS)[name]
    answer = ask(admitting, body, 1)
    if has_image(body):
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "model_has_no_vision"
        return
    assert answer.status_code == 200, answer.text
    assert ("data: [DONE]" in answer.text) == bool(body.get("stream"))
    least_tokens = len(json.dumps(body["messages"])) // 20
    assert int(answer.headers["x-conv-processing-tokens"]) > least_tokens, "the prompt was not rendered whole"


def smallest_per_client() -> list[tuple[str, dict[str, Any]]]:
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, body in sorted(REQUESTS, key=lambda request: len(json.dumps(request[1]))):
        if not has_image(body) and "response_format" not in body:
            chosen.setdefault(name.partition("/")[0], (name, body))
    return list(chosen.values())


@pytest.mark.parametrize("name", [name for name, _ in smallest_per_client()])
def test_each_client_is_answered(answering: ServedDaemon, name: str) -> None:
    body = dict(REQUESTS)[name]
    answer = ask(answering, {**body, "temperature": 0}, 8)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
        reason = next(c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"])
    else:
        usage, reason = answer.json()["usage"], answer.json()["choices"][0]["finish_reason"]
    assert reason in ("length", "stop")
    assert usage["completion_tokens"] == 8 or reason == "stop"
    assert usage["prompt_tokens"] > 50


def test_there_is_something_to_test() -> None:
    assert len(smallest_per_client()) >= 6
    assert Path(demo_model_dir()).is_dir()
