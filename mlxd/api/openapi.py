"""`GET /api/openapi.json`: the admin API as a schema, from which clients are made. For the admin only."""

from __future__ import annotations

from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd.api.auth import AdminBearer

router = Router(tags=["openapi"])
admin = AdminBearer()
SCHEME: Final = "bearer"


@router.get("/openapi.json", auth=admin, summary="This API, described")
async def openapi(request: ASGIRequest) -> dict[str, Any]:
    from mlxd.api.root import api  # which is made of this router

    return described(dict(api.get_openapi_schema()))


def described(whole: dict[str, Any]) -> dict[str, Any]:
    """What is said of `/api`, with how to be let in and what an error looks like."""
    paths = {path: item for path, item in whole["paths"].items() if path.startswith("/api/")}
    for item in paths.values():
        for operation in item.values():
            operation["security"] = [{SCHEME: []}]
            operation["responses"] = {**operation.get("responses", {}), "default": _ERROR}
    components = {
        "schemas": {**whole.get("components", {}).get("schemas", {}), "Error": _ERROR_SCHEMA},
        "securitySchemes": {SCHEME: {"type": "http", "scheme": "bearer"}},
    }
    return {**whole, "paths": paths, "components": components}


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
