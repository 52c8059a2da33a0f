"""What a large request costs before it is submitted: 500 KB, 200 messages with calls, 40 tools, about 80,000 tokens.

The real daemon over a scripted engine, which reads any prompt at once. The time is from the first byte sent to the
first byte of the answer's head, which waits for the engine to have taken the request: upload, parsing, validation,
meaning, healing, lineage, binding, rendering and tokenising are all in it. A cold body is in words nobody has sent; a
warm one is the same conversation with the answer and two messages more.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import mlxd.cli
import mlxd.daemon
from inference.conversation.preparer import Preparer
from inference.conversation.preparer_process import Echoed
from inference.engine.scripted import Script, ScriptedLoader
from inference.engine.text import load_text
from inference.ports import ModelLimits
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import validate
from tests.benchmarks.client import ask
from tests.benchmarks.figure import Figure, Spread, at_most
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import ROOT, module
from tests.benchmarks.processes import mlxd as served_by
from tests.benchmarks.warm_cpu import family_cpu_s

ROUNDS: Final = 7
MESSAGES: Final = 200
TOOLS: Final = 40
BODY_BYTES: Final = 550_000
COLD_MS: Final = 200.0
WARM_MS: Final = 50.0
LIMITS: Final = ModelLimits(131_072, vocab_size=8192, weights_bytes=1_000_000, kv_bytes_per_token=1_000)
LETTER: Final = 72
TEMPLATE: Final = ROOT / "inference/engine/demo/assets/chat_template.jinja"

type Message = dict[str, Any]


def run() -> Iterator[Figure]:
    yield from prompts()
    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    tokens = 0
    with (
        tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made,
        served_by(text_side(Path(made)), command=module("tests.benchmarks.prepare")) as served,
    ):
        for turn in range(-1, ROUNDS):  # the first one starts the process for large bodies
            messages = conversation(f"round {turn}")
            first, answer, tokens = sent(served.url, served.process.pid, messages)
            messages += [{"role": "assistant", "content": answer}, *exchange(f"round {turn} more", 0)]
            second, _, _ = sent(served.url, served.process.pid, messages)
            if turn >= 0:
                cold.append(first)
                warm.append(second)
    for name, found, limit_ms in (("cold", cold, COLD_MS), ("its prefix seen", warm, WARM_MS)):
        told = f"{tokens} tokens; CPU of all processes {Spread.of(cpu for _, cpu in found)} ms"
        yield at_most(f"500 KB, first byte sent to taken, {name}", [took for took, _ in found], limit_ms, told, "ms")


def prompts() -> Iterator[Figure]:
    """Rendering and tokenising alone, with the way to the process for large bodies and back."""
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        cold, warm = asyncio.run(rendered(text_side(Path(made))))
    yield at_most("500 KB made a prompt, cold", cold, COLD_MS, "", "ms")
    yield at_most("500 KB made a prompt, its prefix seen", warm, WARM_MS, "", "ms")


async def rendered(directory: Path) -> tuple[list[float], list[float]]:
    """Milliseconds, cold and warm."""
    preparer, text_model = Preparer(), load_text(directory)
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(-1, ROUNDS):
        messages = conversation(f"prompt {turn}")
        for into in found:
            body = {"model": "any", "messages": messages, "tools": tools()}
            job = Echoed(convert_chat(validate(ChatRequest, body)), {}, 0.0)
            began_s = time.perf_counter()
            await preparer.prepare_with_notes(directory, text_model, job, BODY_BYTES)
            if turn >= 0:
                into.append(1e3 * (time.perf_counter() - began_s))
            messages += [{"role": "assistant", "content": text(f"{turn} end", 30)}, *exchange(f"prompt {turn} more", 0)]
    preparer.close()
    return found


def text_side(directory: Path) -> Path:
    """A model's directory without weights, with a template that shows tools and calls."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        shutil.copy(benchmark_model() / name, directory / name)
    shutil.copy(TEMPLATE, directory / "chat_template.jinja")
    (directory / "model.safetensors").touch()  # looked for, never read
    return directory


def conversation(seed: str) -> list[Message]:
    """As an agent sends it: every second answer reads a file."""
    each = BODY_BYTES // MESSAGES
    first = [{"role": "system", "content": text(f"{seed} system", 10 * each)}]
    return first + [message for at in range((MESSAGES - 1) // 4) for message in exchange(f"{seed} {at}", 2 * each)]


def exchange(seed: str, result_bytes: int) -> list[Message]:
    """A question, a call, its result (most of a conversation's bytes) and an answer; a question alone at the end."""
    asked: Message = {"role": "user", "content": text(f"{seed} asked", 200)}
    if not result_bytes:
        return [asked]
    function = {"name": "tool_1", "arguments": json.dumps({"path": text(f"{seed} path", 30)})}
    call = {"id": f"call_{seed.replace(' ', '_')}", "type": "function", "function": function}
    return [
        asked,
        {"role": "assistant", "content": text(f"{seed} said", 150), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": text(f"{seed} read", 3 * result_bytes // 2)},
        {"role": "assistant", "content": text(f"{seed} answered", 300)},
    ]


def text(seed: str, size: int) -> str:
    return words(size // 4, seed=hash_of(seed))[:size]


def hash_of(seed: str) -> int:
    return int.from_bytes(seed.encode()[-16:], "big") ^ len(seed)


def tools() -> list[dict[str, Any]]:
    field = {"type": "string", "description": text("a field", 60)}
    schema = {"type": "object", "properties": {"path": field, "text": field}, "required": ["path"]}
    return [
        {
            "type": "function",
            "function": {"name": f"tool_{at}", "description": text(f"tool {at}", 200)} | {"parameters": schema},
        }
        for at in range(TOOLS)
    ]


def sent(url: str, pid: int, messages: list[Message]) -> tuple[tuple[float, float], str, int]:
    """((milliseconds until the request was taken, CPU milliseconds), the answer, tokens of the prompt)."""
    body = {"messages": messages, "tools": tools(), "max_tokens": 4, "stream": True}
    before_s = family_cpu_s(pid)
    (reply,) = asyncio.run(ask(url, body | {"stream_options": {"include_usage": True}}))
    time.sleep(0.02)  # what is written down after the answer belongs to it
    took_ms = 1e3 * (reply.blocks[0][0] - reply.sent_s)
    usage = next(chunk["usage"] for _, chunk in reply.chunks if chunk.get("usage"))
    return (took_ms, 1e3 * (family_cpu_s(pid) - before_s)), reply.text, usage["prompt_tokens"]


def main() -> None:
    """The daemon that is measured."""
    script = Script(chunk_tokens=1 << 20, limits=LIMITS, reply=lambda _job, _position: LETTER)
    mlxd.daemon.mlx_loader = lambda config, _bitwise_of: lambda: ScriptedLoader(script)
    mlxd.cli.main()


if __name__ == "__main__":
    main()
