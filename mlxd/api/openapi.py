"""`GET /api/openapi.json`: the admin API as a schema, from which clients are made. For the admin only."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mlxd.api.auth import AdminBearer
from mlxd.api.orders import REFERENCE
from mlxd.api.schemas import ChatRequest, CompletionRequest

router = Router(tags=["openapi"])
admin = AdminBearer()
SCHEME: Final = "bearer"


@router.get("/openapi.json", auth=admin, summary="This API, described")
async def openapi(request: ASGIRequest) -> dict[str, Any]:
    from mlxd.api.root import api  # which is made of this router

    return described(dict(api.get_openapi_schema()))


def described(whole: dict[str, Any]) -> dict[str, Any]:
    """What is said of `/api`, with how to be let in and what an error looks like."""
    whole = deepcopy(whole)  # what operations say of themselves is theirs
    paths = {path: item for path, item in whole["paths"].items() if path.startswith("/api/")}
    schemas = {**whole.get("components", {}).get("schemas", {}), **_requests(), "Error": _ERROR_SCHEMA}
    for item in paths.values():
        for operation in item.values():
            schemas |= _taken_out(operation)
            operation["security"] = [{SCHEME: []}]
            operation["responses"] = {**operation.get("responses", {}), "default": _ERROR}
    components = {"schemas": schemas, "securitySchemes": {SCHEME: {"type": "http", "scheme": "bearer"}}}
    return {**whole, "paths": paths, "components": components}


def _requests() -> dict[str, Any]:
    """The schemas of what clients send, to which operations refer."""
    sent: list[type[BaseModel]] = [ChatRequest, CompletionRequest]
    found: dict[str, Any] = models_json_schema([(one, "validation") for one in sent], ref_template=REFERENCE)[1]
    return dict(found["$defs"])


def _taken_out(operation: dict[str, Any]) -> dict[str, Any]:
    """Schemas that the schema of a body brought along; they belong to the components."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    found: dict[str, Any] = body.pop("$defs", {})
    return found


_ERROR: Final = {
    "description": "Refused, or failed",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_ERROR_SCHEMA: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        }
    },
}
