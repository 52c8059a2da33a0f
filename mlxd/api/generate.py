"""The way every generation takes: checked bytes, a runtime's generation, and a streamed or folded answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from inference.conversation.volatile_policy import VolatilePolicy
from inference.events import Admitted, Event, Failed
from inference.messages import Conversation, Role
from inference.params import GenerationParams, Grammar, KVQuantisation
from inference.ports import Tokenizer
from inference.tokens import TokenIds
from mlxd import runtime
from mlxd.api import drift, ignored, policy, small_model
from mlxd.api.auth import caller_of
from mlxd.api.chunks import Envelope, Reducer, Shape
from mlxd.api.facts import facts_of
from mlxd.api.formats import without_calls
from mlxd.api.logit_bias import read_bias
from mlxd.api.raw_prompt import check_ids
from mlxd.api.reply import collect
from mlxd.api.sampling import generation_params
from mlxd.api.schemas import GenerationRequest
from mlxd.api.sessions import fields_of, header_map, session_name, session_of
from mlxd.api.slot import Stream, slot_of
from mlxd.api.sse import EventStream
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from mlxd.api.wire import dump, new_id
from mlxd.keys.access import Caller
from mlxd.runtime import ServedModel
from mlxd.served import unknown

OFF_LOOP_BYTES: Final = 1024 * 1024
ADMITTED_WAIT_S: Final = 2.0
"""Headers wait this long for the cache's verdict; then they say that there is none."""

KEYLESS: Final = ""
"""The client that everyone without a key of ours is: they share the whole queue."""
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read. Without a conversation `raw_prompt` is what is continued.

    `hide_reasoning`: this request wants no thoughts shown.
    """

    body: GenerationRequest
    params: GenerationParams
    shape: Shape
    id: str
    body_bytes: int
    conversation: Conversation | None = None
    raw_prompt: str | TokenIds = ""
    hide_reasoning: bool = False


async def read[Request: GenerationRequest, Read](
    raw: bytes, schema: type[Request], finish: Callable[[Request], Read]
) -> tuple[Request, Read]:
    """Parses, validates and converts a body; a large one in a thread, because it would stop every stream meanwhile."""

    def work() -> tuple[Request, Read]:
        value = parse_object(raw)
        ignored.count(schema, value)
        body = validate(schema, value)
        return body, finish(body)

    return work() if len(raw) <= OFF_LOOP_BYTES else await asyncio.to_thread(work)


async def resolve_params(body: GenerationRequest) -> tuple[GenerationParams, Tokenizer]:
    """What the request left open, decided; and the tokenizer of the model it named."""
    running = runtime.current()
    served = running.resolve(body.model)
    text, own = await running.text(served), served.settings
    vocab_size = text.tokenizer.vocab_size
    if body.stop_token_ids:
        check_ids(body.stop_token_ids, "stop_token_ids", vocab_size)
    params = generation_params(body, {**policy.current().sampling, **own.sampling}, text.generation_defaults)
    if params.kv is None and own.kv_bits is not None:
        kv = KVQuantisation(own.kv_bits, own.kv_group_size or 64, own.quantized_kv_start or 0)
        params = replace(params, kv=kv)
    if body.logit_bias:
        bias = read_bias(body.logit_bias, vocab_size)
        params = replace(params, sampling=replace(params.sampling, logit_bias=bias))
    return params, text.tokenizer


def request_id(request: ASGIRequest) -> str:
    """The id the transport gave, which also stands in the answer's header and in the log."""
    return request.scope.get("mlxd.request_id") or new_id("req_")


async def generate(request: ASGIRequest, ask: Ask) -> HttpResponse:
    """The answer: folded, or headers only with the generation left in the slot. Cancels what it does not hand over."""
    headers = header_map(request.scope["headers"])
    running, caller = runtime.current(), caller_of(request)
    client = caller.client
    served = allowed(caller, running.resolve(ask.body.model), ask.body.model)
    session = session_of(fields_of(ask.body), headers, client, partial(running.ledger.knows, client))
    volatile = drift.wanted(headers, served)
    generation = await running.open(
        model=ask.body.model,
        conversation=ask.conversation,
        raw_prompt=ask.raw_prompt,
        params=ask.params,
        client=client,
        request_id=request_id(request),
        body_bytes=ask.body_bytes,
        session=session.given_name,
        conv=session.name,
        salt=cache_salt(ask.body, caller),
        volatile=volatile,
        no_calls=await no_calls(ask, volatile),
    )
    spans, placed = generation.known.spans, generation.known.placed
    session = session.known_as(placed.session if placed is not None else None)
    try:
        opening = await generation.next_batch(ADMITTED_WAIT_S)
        _raise_early(opening)
        reducer = Reducer(_envelope(ask, generation.model_id), ask.shape)
        facts = facts_of(request.scope)
        facts.model, facts.prompt, facts.conv = generation.model_id, generation.prompt, session.log_name
        facts.stream, facts.reducer, facts.spans = bool(ask.body.stream), reducer, spans
        if ask.body.stream:
            frames = EventStream(reducer, request.path, request_id(request))
            slot_of(request.scope).stream = Stream(generation, frames, opening)
            response = HttpResponse(headers=STREAM_HEADERS)
        else:
            answer = await collect(generation, reducer, opening)
            answer["metadata"] = {"conversation_id": session.id}
            response = HttpResponse(dump(answer), content_type="application/json")
    except BaseException:
        generation.cancel()
        raise
    response["X-Conv-Id"] = session.header
    drift.tell(response, spans)
    _tell(response, opening, generation.prompt_tokens, generation.max_tokens, ask.params.max_tokens)
    if ask.conversation is not None and ask.conversation.tools:
        _warn(response, small_model.warning(runtime.current(), generation.model_id))
    return response


async def no_calls(ask: Ask, volatile: VolatilePolicy) -> Grammar | None:
    """What the answer must match if tools are kept in the prompt; None: they are not to be."""
    if ask.conversation is None or ask.conversation.tools or not volatile.keep_tools:
        return None
    answered = any(message.role is Role.ASSISTANT for message in ask.conversation.messages)
    return ask.params.grammar or (await without_calls(ask.body) if answered else None)


def cache_salt(body: GenerationRequest, caller: Caller) -> bytes:
    """Parts who must not learn from timing what others asked; b"" is the part of everyone without a key who asks
    for none."""
    own = b"" if caller.key is None else caller.key.salt(policy.current().secret)
    return own + (session_name(caller.client, body.cache_salt).encode() if body.cache_salt else b"")


def allowed(caller: Caller, served: ServedModel, name: str | None) -> ServedModel:
    """The model, unless the caller's key is for others. Raises `ModelNotFound`."""
    if not caller.may_use(served.id):
        raise unknown(name)
    return served


def _raise_early(opening: tuple[Event, ...]) -> None:
    """A failure before any output is still an HTTP status."""
    if opening and isinstance(opening[0], Failed):
        raise opening[0].error
    if len(opening) > 1 and isinstance(opening[0], Admitted) and isinstance(opening[1], Failed):
        raise opening[1].error


def _envelope(ask: Ask, model_id: str) -> Envelope:
    options = ask.body.stream_options
    return Envelope(
        ask.id,
        model_id,
        int(time.time()),
        separate_usage=bool(options and options.include_usage),
        choices=ask.params.n,
        strip_thinking=policy.current().strip_thinking or ask.hide_reasoning,
    )


def _warn(response: HttpResponse, warning: str | None) -> None:
    if warning is not None:
        response[small_model.HEADER] = warning


def _tell(
    response: HttpResponse, opening: tuple[Event, ...], prompt_tokens: int, max_tokens: int, asked: int | None
) -> None:
    admitted = next((event for event in opening if isinstance(event, Admitted)), None)
    cached_tokens = admitted.cached_tokens if admitted else 0
    response["X-Conv-KV"] = admitted.warmth if admitted else "none"
    response["X-Mlxd-Verdict"] = admitted.verdict if admitted else "none"
    response["X-Conv-Cached-Tokens"] = str(cached_tokens)
    response["X-Conv-Processing-Tokens"] = str(prompt_tokens - cached_tokens)
    if asked is not None and max_tokens < asked:
        response["X-Mlxd-Max-Tokens"] = str(max_tokens)
