"""A runtime whose generations say what a script says, and a client that speaks ASGI to the real application."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inference.conversation.shape import Traits
from inference.errors import GenerationFailed, InferenceError, ModelNotFound
from inference.events import Admitted, Delta, Event, Failed, Finished, FinishReason, Usage
from inference.tokens import Prompt
from mlxd.keys import access
from mlxd.ledger.ledger import Ledger
from mlxd.ledger.recorded import Known
from mlxd.ledger.whose import Whose
from mlxd.malformed import MalformedCalls
from mlxd.runtime import ServedModel
from tests.scripted import until

VOCAB_SIZE = 1000
CONTEXT_TOKENS = 4096
PROMPT_TOKENS = 7


def said(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[Event]:
    usage = Usage(PROMPT_TOKENS, completion_tokens=len(texts), prefill_s=0.5, decode_s=0.25)
    return [Admitted("r", PROMPT_TOKENS), *(Delta(text) for text in texts), Finished(reason, usage)]


class ScriptedGeneration:
    """`script` holds events and pauses in seconds (float); events without a pause between are one batch."""

    model_id = "tiny"

    def __init__(self, script: Iterable[Event | float | Exception], *, max_tokens: int = 100) -> None:
        self.script = list(script)
        self.prompt_tokens = PROMPT_TOKENS
        self.prompt = Prompt(tuple(range(PROMPT_TOKENS)))
        self.max_tokens = max_tokens
        self.known = Known(Whose())
        self.cancelled = False
        self.reads = 0
        self.ended = False

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]:
        self.reads += 1
        if self.ended:
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        until_s = None if timeout_s is None else loop.time() + timeout_s
        while self.script and isinstance(self.script[0], float):
            left_s = None if until_s is None else until_s - loop.time()
            if left_s is not None and 0 < self.script[0] > left_s:  # 0.0 is only the border of a batch
                self.script[0] -= max(0.0, left_s)
                await asyncio.sleep(max(0.0, left_s))
                return ()
            await asyncio.sleep(self.script.pop(0))
        batch: list[Event] = []
        while self.script and not isinstance(self.script[0], float):
            item = self.script.pop(0)
            if isinstance(item, Exception):
                raise item
            batch.append(item)
        if not batch:
            await asyncio.sleep(3600)
        self.ended = isinstance(batch[-1], Finished | Failed)
        return tuple(batch)

    @property
    def all_told(self) -> bool:
        """Somebody has read every event, and waits for more."""
        return self.reads > 0 and not any(not isinstance(step, float) for step in self.script)

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class StandIn:
    """The runtime's face. `opening` is raised, or slept on, before a generation opens."""

    script: Sequence[Event | float | Exception] = field(default_factory=lambda: said("Hello", " world"))
    opening: Sequence[float | Exception] = ()
    max_tokens: int = 100
    defaults: dict[str, Any] = field(default_factory=dict)
    alive: bool = True
    ready: tuple[bool, str] = (True, "ready")
    tool_call_format: str = "auto"
    parameter_count: int = 0
    malformed: MalformedCalls = field(default_factory=MalformedCalls)
    ledger: Ledger = field(default_factory=Ledger)
    models: tuple[ServedModel, ...] = (
        ServedModel("tiny", Path("/models/tiny"), 1_700_000_000),
        ServedModel("owner/other", Path("/models/other"), 1_700_000_001),
    )
    asked: list[dict[str, Any]] = field(default_factory=list)
    made: list[ScriptedGeneration] = field(default_factory=list)
    abandoned: int = 0

    def resolve(self, name: str | None) -> ServedModel:
        if name is None:
            return self.models[0]
        for model in self.models:
            if model.answers_to(name):
                return model
        raise ModelNotFound("There is no such model here.", param="model")

    async def text(self, model: ServedModel) -> Any:
        tokenizer = SimpleNamespace(
            vocab_size=VOCAB_SIZE, encode_template=lambda _text: (1, 2), token_bytes=lambda token: bytes([token])
        )
        return SimpleNamespace(
            generation_defaults=self.defaults, tokenizer=tokenizer, traits=Traits(), template=None, dialects=()
        )

    async def open(self, **asked: Any) -> ScriptedGeneration:
        self.asked.append(asked)
        self.resolve(asked["model"])
        try:
            for step in self.opening:
                if isinstance(step, Exception):
                    raise step
                await asyncio.sleep(step)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        wanted = asked["params"].max_tokens
        limit = self.max_tokens if wanted is None else min(wanted, self.max_tokens)
        self.made.append(ScriptedGeneration(self.script, max_tokens=limit))
        return self.made[-1]

    def parameters(self, model_id: str) -> int:
        return self.parameter_count

    def live(self) -> bool:
        return self.alive

    def readiness(self) -> tuple[bool, str]:
        return self.ready

    def snapshot(self) -> Any:
        return View(self.models)


@dataclass(frozen=True)
class View:
    models: tuple[ServedModel, ...]


@dataclass
class Answer:
    """What one call sent, and when. `error` is what the application raised at its caller."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        return [message.get("body", b"") for message in self.messages[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def complete(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", False) and len(self.messages) > 1

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error

    def events(self) -> list[Any]:
        frames = [frame for frame in self.body.split(b"\n\n") if frame.startswith(b"data: ")]
        return [None if frame == b"data: [DONE]" else json.loads(frame[6:]) for frame in frames]


class Call:
    """One request to the application, with the client's end in our hands."""

    def __init__(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, pieces: int = 1
    ) -> None:
        given = {"host": "127.0.0.1:8080", "content-type": "application/json", **(headers or {})}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
            "mlxd.request_id": "req_test",
        }
        self.answer = Answer()
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        size = max(1, -(-len(body) // pieces))
        cuts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        for i, cut in enumerate(cuts):
            self.incoming.put_nowait({"type": "http.request", "body": cut, "more_body": i + 1 < len(cuts)})
        self.sent = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.fail_after: int | None = None
        self.failure: Exception = InferenceError("unset")

    def start(self) -> Call:
        from mlxd.asgi import application

        self.began_s = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(application(self.scope, self.incoming.get, self._send))
        return self

    def disconnect(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def _send(self, message: dict[str, Any]) -> None:
        if self.fail_after is not None and len(self.answer.messages) >= self.fail_after:
            raise self.failure
        self.answer.messages.append(dict(message))
        self.answer.at_s.append(asyncio.get_running_loop().time() - self.began_s)
        self.sent.set()

    async def result(self, timeout_s: float = 120.0) -> Answer:
        assert self.task is not None
        done, _ = await asyncio.wait([self.task], timeout=timeout_s)
        assert done, "the application hangs"
        if not self.task.cancelled():
            self.answer.error = self.task.exception()
        return self.answer


async def post(path: str, body: Any, **kwargs: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await Call("POST", path, raw, **kwargs).start().result()


async def get(path: str, **kwargs: Any) -> Answer:
    return await Call("GET", path, **kwargs).start().result()


async def browser() -> dict[str, str]:
    """The cookie of a browser that is signed in."""
    token = access.admin()
    assert token is not None, "nobody is the admin"
    return {"cookie": f"mlxd_session_8080={await access.current().browsers.sign_in(token, time.time())}"}


async def gone(call: Call, reached: Callable[[], object]) -> None:
    """Has the client leave once its request has come so far, and waits for the end of everything about it."""
    await until(reached)
    assert call.task is not None and not call.task.done()
    call.disconnect()
    await call.result(20.0)  # what is asked for in these tests takes a minute


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


BROKEN = Failed(GenerationFailed("The generation failed."))
