"""`/api/cache`: what is stored, what a request would begin with, and how to be rid of it. For the admin only.

Questions go to the worker's thread, which owns the store, and are answered between two steps.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.prefix_store import PrefixStore, StoreRemoval
from mlxd import runtime
from mlxd.api import drift
from mlxd.api.auth import AdminBearer
from mlxd.api.cache_answers import explained
from mlxd.api.conv_kv import on_disk
from mlxd.api.errors import InvalidField, NotFound
from mlxd.api.generate import OFF_LOOP_BYTES, cache_salt, no_calls
from mlxd.api.openai import ask_chat, ask_completion
from mlxd.api.orders import body_of, either_of
from mlxd.api.plain import plain
from mlxd.api.schemas import ChatRequest, CompletionRequest
from mlxd.api.schemas.types import Body, Name
from mlxd.api.sessions import fields_of, header_map, name_of, session_of
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from mlxd.conversing import Asking
from mlxd.keys import access
from mlxd.keys.access import Caller

router = Router(tags=["cache"])
admin = AdminBearer()
OFF: Final = {"enabled": False}
"""What is answered where nothing is kept."""


class ClearRequest(Body):
    """One of three: what only a session holds, all of a model, or everything."""

    session: Name | None = None
    model: Name | None = None
    all: bool | None = None


class ImportRequest(Body):
    """What `mlxd cache import` has put beside the disk's files: no path, but a name in a folder of ours."""

    batch: Name


@router.get("/stats", auth=admin, summary="What the prefix cache holds and did")
async def stats(request: ASGIRequest) -> dict[str, Any]:
    """Reads every block of it, so it is for people, not for polling; the totals stand in `/api/status` too."""
    running = runtime.current()
    found = await asyncio.wrap_future(
        running.scheduler.store(lambda store: {**store.stats(), "totals": asdict(store.totals())})
    )
    beside = {"witness": running.witness.counts, "prewarmed": [asdict(one) for one in running.prewarmed]}
    return {**(OFF if found is None else {"enabled": True, **plain(found)}), **beside}


@router.post(
    "/explain",
    auth=admin,
    summary="What a request would begin with, and why not with more",
    openapi_extra=either_of(ChatRequest, CompletionRequest),
)
async def explain(request: ASGIRequest, owner: str = "") -> dict[str, Any]:
    """Takes the body of a chat request or a completion, and as `owner` the name of the key it would come with. Nothing
    is computed, locked or counted."""
    raw = request.body
    value = parse_object(raw) if len(raw) <= OFF_LOOP_BYTES else await asyncio.to_thread(parse_object, raw)
    ask = await (ask_completion(raw) if "prompt" in value and "messages" not in value else ask_chat(raw))
    running = runtime.current()
    served = running.resolve(ask.body.model)
    text = await running.text(served)
    headers, caller = header_map(request.scope["headers"]), _caller(owner)
    client = caller.client
    session = session_of(fields_of(ask.body), headers, client, partial(running.ledger.knows, client))
    volatile = drift.wanted(headers, served)
    asking = Asking(
        params=ask.params,
        conversation=ask.conversation,
        raw_prompt=ask.raw_prompt,
        client=client,
        body_bytes=len(raw),
        session=session.given_name,
        conv=session.name,
        salt=cache_salt(ask.body, caller),
        volatile=volatile,
        keep_tools=await no_calls(ask, volatile) is not None,
        counted=False,
    )
    understood = await running.conversing.understand(served.ref, text, asking)
    prompt, scope = understood.prompt, understood.scope
    found = await asyncio.wrap_future(running.scheduler.explain(served.ref, prompt, scope, ask.params.kv))
    told: dict[str, Any] = plain(asdict(explained(prompt, found, understood.observed)))
    return {"model": served.id, "conversation_id": session.id if session.given else None, **told}


@router.post(
    "/clear",
    auth=admin,
    summary="Let go of what is stored; it cannot be undone",
    openapi_extra=body_of(ClearRequest),
)
async def clear(request: ASGIRequest, owner: str = "") -> dict[str, Any]:
    """Answers with what went. Rows that run go on; what they stood on may be gone, and then they store nothing more.
    `owner` is the name of the key whose session is meant."""
    wanted = validate(ClearRequest, parse_object(request.body))
    if sum(map(bool, (wanted.session, wanted.model, wanted.all))) != 1:
        raise InvalidField("Send one of session, model and all: true.", param="all")

    client = _caller(owner).client
    knows = partial(runtime.current().ledger.knows, client)

    def work(store: PrefixStore) -> tuple[StoreRemoval, int]:
        session = name_of(client, wanted.session, knows) if wanted.session else ""
        return store.clear(model=_stored_model(wanted.model), session=session), store.held_bytes

    done = await asyncio.wrap_future(runtime.current().scheduler.store(work))
    return OFF if done is None else {"enabled": True, "cleared": asdict(done[0]), "held_bytes": done[1]}


@router.post(
    "/import",
    auth=admin,
    summary="Take in stored prefixes that `mlxd cache import` has put there",
    openapi_extra=body_of(ImportRequest),
)
async def take_in(request: ASGIRequest) -> dict[str, Any]:
    """Answers with what became of files and saved conversations, counted by a word."""
    batch = validate(ImportRequest, parse_object(request.body)).batch
    try:
        taken = await on_disk(lambda saved: saved.take_in(batch))
    except (ValueError, OSError) as error:
        raise InvalidField(f"That batch cannot be read: {type(error).__name__}.", param="batch") from None
    told: dict[str, Any] = plain(asdict(taken))
    return told


def _caller(name: str) -> Caller:
    """Who comes with a key. Raises `NotFound`."""
    key = access.current().keyring.named(name) if name else None
    if name and key is None:
        raise NotFound("There is no such key.")
    return access.KEYLESS if key is None else Caller(client=key.id, key=key)


def _stored_model(name: str | None) -> str:
    """The id under which blocks of a model are stored; a model that is not served any more keeps the name it had."""
    models = runtime.current().models
    return next((model.id for model in models if name and model.answers_to(name)), name or "")
