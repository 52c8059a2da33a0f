"""What scripted tests share: a tokenizer of bytes, requests made of text, and a scheduler that is always stopped."""

from __future__ import annotations

import asyncio
import codecs
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.engine.scripted import EOS, Script, ScriptedLoader
from inference.events import Delta, Event, Failed, Finished
from inference.messages import Tool
from inference.params import GenerationParams, SamplingParams, StopConditions
from inference.ports import Job, ModelRef
from inference.scheduler import Generation, Request, Scheduler, SchedulerSettings, Thinking
from inference.tokens import Prompt, TokenIds

MODEL = ModelRef("scripted", Path("scripted"))
numbers = itertools.count(1)


class ByteDetokenizer:
    """UTF-8, byte by byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Ids 0 to 255 are bytes, `EOS` ends the turn."""

    vocab_size = EOS + 1
    eos_ids = frozenset({EOS})

    def encode_field(self, text: str) -> TokenIds:
        return tuple(text.encode())

    encode_template = encode_raw = encode_field

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < EOS else b""

    def detokenizer(self, shown: frozenset[int] = frozenset()) -> ByteDetokenizer:
        return ByteDetokenizer()


def request(
    text: str = "hello",
    *,
    max_tokens: int | None = 8,
    stop: tuple[str, ...] = (),
    client: str = "",
    model: ModelRef = MODEL,
    context_tokens: int = 65_536,
    seed: int | None = None,
    thinking: Thinking | None = None,
    tools: tuple[Tool, ...] = (),
    **fields: Any,
) -> Request:
    """A request whose prompt is the bytes of `text`."""
    params = GenerationParams(
        SamplingParams(temperature=0.0, seed=seed, logit_bias=fields.pop("logit_bias", ())),
        StopConditions(stop, fields.pop("stop_ids", ())),
        max_tokens,
        fields.pop("deadline_s", None),
        min_tokens=fields.pop("min_tokens", 0),
        top_logprobs=fields.pop("top_logprobs", None),
        n=fields.pop("n", 1),
        kv=fields.pop("kv", None),
    )
    return Request(
        id=fields.pop("id", f"r{next(numbers)}"),
        model=model,
        tokenizer=fields.pop("tokenizer", ByteTokenizer()),
        prompt=Prompt(tuple(text.encode()), **fields),
        params=params,
        context_tokens=context_tokens,
        client=client,
        thinking=thinking,
        tools=tools,
    )


def reply_ids(wanted: Request, script: Script, tokens: int, choice: int = 0) -> list[int]:
    """What a script draws for a request when nobody else is there; for a choice, what its own seed would give."""
    sampling = wanted.params.sampling
    if choice and sampling.seed is not None:
        sampling = replace(sampling, seed=sampling.seed + choice)
    job = Job("solo", wanted.prompt, sampling, tokens)
    return [script.reply(job, position) for position in range(tokens)]


@contextmanager
def scheduled(
    script: Script | None = None, *, loader: ScriptedLoader | None = None, scheduler: Any = None, **settings: Any
) -> Iterator[Scheduler]:
    """A running scheduler; hangs are released and threads are gone when the block is left."""
    script = script or Script()
    loader = loader or ScriptedLoader(script)
    made = Scheduler(lambda: loader, SchedulerSettings(**{"tick_s": 0.02} | settings), **(scheduler or {}))
    made.start()
    try:
        yield made
    finally:
        script.release.set()
        assert made.stop(60)


async def events(generation: Generation, timeout_s: float = 120.0) -> list[Event]:
    """All events of a generation; a generation that stalls is an error."""
    async with asyncio.timeout(timeout_s):
        return [event async for batch in generation for event in batch]


def text_of(told: Sequence[Event], choice: int = 0) -> str:
    return "".join(event.text for event in told if isinstance(event, Delta) and event.choice == choice)


def final_of(told: Sequence[Event], choices: int = 1) -> Finished | Failed:
    """The last event. It is a law of every generation that it fails once or finishes once for each choice."""
    finals = [event for event in told if isinstance(event, Finished | Failed)]
    assert told[-1] is finals[-1]
    finished = [final.choice for final in finals if isinstance(final, Finished)]
    if isinstance(finals[-1], Failed):
        assert len(finals) == len(finished) + 1 and len(set(finished)) == len(finished) < choices
    else:
        assert sorted(finished) == list(range(choices)) and len(finals) == choices
    return finals[-1]


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> float:
    """Waits for a condition and returns the seconds it took."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise AssertionError("it did not come true in time")
        await asyncio.sleep(0.001)
    return time.monotonic() - began_s
