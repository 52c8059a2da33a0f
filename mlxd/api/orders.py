"""How an admin's order is read: from a JSON body, from the query string as in `curl -X POST ...?model_id=`, or both."""

from __future__ import annotations

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from pydantic import BaseModel

from mlxd.api.errors import InvalidField
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate

FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read_order[Order: BaseModel](schema: type[Order], request: ASGIRequest) -> Order:
    """The order. Raises `InvalidField` for what it does not know, and where body and query differ."""
    body = parse_object(request.body) if request.body.strip() else {}
    for name in request.GET:
        value = _of_query(name, request.GET.getlist(name))
        if body.setdefault(name, value) != value:
            raise InvalidField(f"{name} is said twice, and differs.", param=name)
    return validate(schema, body)


def _of_query(name: str, values: list[str]) -> Any:
    if len(values) != 1:
        raise InvalidField(f"{name} is said twice, and differs.", param=name)
    return FLAGS.get(values[0], values[0]) if name in ("force", "drain", "wait") else values[0]


def body_of(schema: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What OpenAPI is told of an operation that reads its body by itself."""
    content = {"application/json": {"schema": schema.model_json_schema(ref_template="#/components/schemas/{model}")}}
    return {"requestBody": {"required": required, "content": content}}
