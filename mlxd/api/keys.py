"""`/api/keys`: named keys, made, listed with what they were used for, and removed. For the admin only.

A key is told once, when it is made; nothing that is kept can tell it again.
"""

from __future__ import annotations

from typing import Annotated, Any

from django.core.handlers.asgi import ASGIRequest
from ninja import Router
from pydantic import Field

from mlxd.api.auth import AdminBearer
from mlxd.api.errors import Conflict, NotFound
from mlxd.api.orders import body_of
from mlxd.api.schemas.types import Body, Name
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from mlxd.api.wholly import wholly
from mlxd.keys import access
from mlxd.keys.key import MAX_KEYS, MAX_MODELS, MAX_PER_MINUTE, MAX_SPAN_S, Scope, Usage, make_key, shown

router = Router(tags=["keys"])
admin = AdminBearer()


class NewKey(Body):
    """`expires_in_s` counts from now; without it the key is good until it is removed. No `models`: all of them."""

    name: Name
    scopes: Annotated[list[Name], Field(max_length=8)] | None = None
    models: Annotated[list[Name], Field(max_length=MAX_MODELS)] | None = None
    requests_per_minute: Annotated[int, Field(ge=0, le=MAX_PER_MINUTE)] | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=MAX_SPAN_S, allow_inf_nan=False)] | None = None


@router.get("/keys", auth=admin, summary="The keys, and what each was used for")
async def keys(request: ASGIRequest) -> dict[str, Any]:
    return {"keys": [shown(key, usage) for key, usage in access.current().keyring.rows()]}


@router.post(
    "/keys",
    auth=admin,
    summary="Make a key; the answer is the only place where it is ever told",
    openapi_extra=body_of(NewKey),
)
async def add(request: ASGIRequest) -> dict[str, Any]:
    return await wholly(_added(validate(NewKey, parse_object(request.body))))


@router.delete("/keys/{name}", auth=admin, summary="Remove a key, by its name or its id")
async def remove(request: ASGIRequest, name: str) -> dict[str, Any]:
    """Refused from now on; what it has running ends as it would have."""
    keyring = access.current().keyring
    key = keyring.named(name)
    if key is None:
        raise NotFound("There is no such key.")
    await wholly(keyring.remove(key))
    return {"id": key.id, "name": key.name, "removed": True}


async def _added(wanted: NewKey) -> dict[str, Any]:
    """One after the other: whether a name is taken is known when the one before is kept."""
    keyring = access.current().keyring
    async with access.current().changing:
        if len(keyring.rows()) >= MAX_KEYS:
            raise Conflict(f"There are {MAX_KEYS} keys. Remove one.", code="too_many_keys")
        secret, key = make_key(
            wanted.name,
            lambda name: keyring.named(name) is not None,
            scopes=[Scope.INFER] if wanted.scopes is None else wanted.scopes,
            models=wanted.models or (),
            requests_per_minute=wanted.requests_per_minute or 0,
            expires_in_s=wanted.expires_in_s,
        )
        await keyring.add(key)
    return {**shown(key, Usage()), "key": secret}
