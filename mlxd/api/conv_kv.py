"""`/v1/conv_kv`: conversations whose computed prefixes stay on the disk until they are deleted.

Open to whoever may talk to the models, for each its own: a conversation of another key is not there. Nothing that was
said is told, only what a conversation is called and how large it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.engine.fingerprint import fingerprint
from inference.errors import BusyError
from inference.prefix_store import PrefixStore, Refused, SavedConversation, SavedConversations
from mlxd import runtime
from mlxd.api.auth import AnyKey, caller_of
from mlxd.api.errors import Conflict, InvalidField, NotFound
from mlxd.api.generate import KEYLESS, allowed
from mlxd.api.schemas.types import Body, Name
from mlxd.api.sessions import BODY_FIELDS, header_map, name_of, session_of
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from mlxd.keys.access import Caller

router = Router(tags=["conversations"])
any_key = AnyKey()

OFF: Final = "Nothing is kept on the disk: it is switched off (ssd_cache_bytes) or this model's state is not stored."
UNKNOWN: Final = "There is no such conversation."
ROOM: Final = {
    "limit": "Saved conversations may take half of ssd_cache_bytes, and this one does not fit. Delete another.",
    "too_many": "There are too many saved conversations. Delete one.",
    "disk_guard": "The disk is more than 90 % full.",
    "day_budget": "As much was written today as ssd_cache_daily_bytes allows.",
    "too_large": "There is no room on the disk that could be made free.",
}


class SaveRequest(Body):
    title: Name | None = None


class LoadRequest(Body):
    model: Name | None = None


class Unavailable(BusyError):
    """The disk's thread has ended, or the process is about to."""

    code = "ssd_cache_unavailable"


@router.post("/save", auth=any_key, summary="Keep what was computed of a conversation until it is deleted")
async def save(request: ASGIRequest) -> dict[str, Any]:
    """What it is called may stand wherever a chat request has it. Again: it is brought up to date."""
    body = parse_object(request.body)
    owner = caller_of(request).client
    told, name = _named(request, body)
    title = validate(SaveRequest, body).title
    done = await on_disk(lambda saved: saved.save(name, owner, told, title))
    if done is None:
        raise NotFound("Nothing is held of such a conversation. Its next answer makes it one that can be saved.")
    if isinstance(done, Refused):
        raise Conflict(ROOM.get(done.reason, f"The disk refused it ({done.reason})."), code=f"not_saved_{done.reason}")
    return _shown(done)


@router.post("/load", auth=any_key, summary="Bring a saved conversation into memory, ahead of its next request")
async def load(request: ASGIRequest) -> dict[str, Any]:
    """Answers when it is there. Without it the next request finds it on the disk all the same, and waits for it."""
    body = parse_object(request.body)
    caller = caller_of(request)
    _, name = _named(request, body)
    model = validate(LoadRequest, body).model
    found = await on_disk(lambda saved: saved.recall(name, caller.client))
    if found is None:
        raise NotFound(UNKNOWN)
    await _check_model(found.saved, model, caller)
    while (reading := await _in_turn(lambda _: found.step())) is not None:
        await _wait(reading)
    done = await _wait(await _in_turn(lambda _: found.end()))
    complete = done.warm_tokens == done.saved.tokens
    told = {"warm_tokens": done.warm_tokens, "lost_files": done.lost_files, "complete": complete}
    return {**_shown(done.saved), **told}


@router.get("/stats", auth=any_key, summary="The saved conversations, the last saved first")
async def stats(request: ASGIRequest) -> dict[str, Any]:
    """A key's own. Those without one are many: they see how many there are, and the one they name in a header."""
    owner = caller_of(request).client
    try:
        found = await on_disk(lambda saved: saved.totals(owner))
    except Conflict:
        return {"object": "list", "enabled": False, "data": []}
    named = session_of({}, header_map(request.scope["headers"]), owner, _knows(owner))
    seen = [one for one in found.conversations if owner != KEYLESS or one.name == named.name]
    return {
        "object": "list",
        "enabled": True,
        "data": [_shown(one) for one in seen],
        "count": len(found.conversations),
        "bytes": found.nbytes,
        "limit_bytes": found.limit_bytes,
        "outage": found.outage,
    }


@router.delete("/{path:conversation_id}", auth=any_key, summary="Let a saved conversation go")
async def delete(request: ASGIRequest, conversation_id: str) -> dict[str, Any]:
    """What only it had on the disk is removed. What is in memory stays, and the conversation can go on."""
    owner = caller_of(request).client
    name = name_of(owner, conversation_id, _knows(owner))
    freed_bytes = await on_disk(lambda saved: saved.delete(name, owner))
    if freed_bytes is None:
        raise NotFound(UNKNOWN)
    return {"object": "conv_kv.deleted", "id": conversation_id, "deleted": True, "freed_bytes": freed_bytes}


def _named(request: ASGIRequest, body: dict[str, Any]) -> tuple[str, str]:
    """What the client calls a conversation, and what it is called here."""
    client = caller_of(request).client
    session = session_of(body, header_map(request.scope["headers"]), client, _knows(client))
    if not session.given:
        raise InvalidField(f"Name the conversation: one of {', '.join(BODY_FIELDS)}.", param="conversation_id")
    return session.id, session.name


def _knows(client: str) -> Callable[[str], bool]:
    return partial(runtime.current().ledger.knows, client)


async def _check_model(saved: SavedConversation, wanted: str | None, caller: Caller) -> None:
    """Raises `Conflict` where no model is served, or named, that can go on with it, `ModelNotFound` as a request."""
    running = runtime.current()
    if wanted is None:
        served = next((model for model in running.models if model.id == saved.model), None) or running.resolve(None)
    else:
        served = running.resolve(wanted)
    allowed(caller, served, wanted)
    if await asyncio.to_thread(fingerprint, served.path) != saved.weights:
        message = f"It was saved with {saved.model}; what {served.id} computes is something else."
        raise Conflict(message, code="other_model")


async def on_disk[Answer](act: Callable[[SavedConversations], Future[Answer]]) -> Answer:
    """Asks on the worker's thread, and waits for what the disk says. Raises `Conflict` where there is none."""

    def asked(store: PrefixStore) -> Future[Answer]:
        if store.saved is None:
            raise Conflict(OFF, code="ssd_cache_off")
        return act(store.saved)

    return await _wait(await _in_turn(asked))


async def _in_turn[Answer](act: Callable[[PrefixStore], Answer]) -> Answer:
    """Something done on the worker's thread. Raises `Conflict` where nothing is kept."""
    done = await asyncio.wrap_future(runtime.current().scheduler.store(lambda store: (act(store),)))
    if done is None:
        raise Conflict(OFF, code="ssd_cache_off")
    return done[0]


async def _wait[Answer](future: Future[Answer]) -> Answer:
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise Unavailable("The disk is not available now.") from None


def _shown(saved: SavedConversation) -> dict[str, Any]:
    return {
        "object": "conv_kv",
        "id": saved.id,
        "title": saved.title,
        "model": saved.model,
        "tokens": saved.tokens,
        "blocks": saved.blocks,
        "bytes": saved.nbytes,
        "saved_at": int(saved.saved_s),
    }
