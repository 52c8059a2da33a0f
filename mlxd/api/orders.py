"""How an admin's order is read: from a JSON body, from the query string as in `curl -X POST ...?model_id=`, or both."""

from __future__ import annotations

from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from pydantic import BaseModel

from mlxd.api.errors import InvalidField
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate

REFERENCE: Final = "#/components/schemas/{model}"
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


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI is told of an operation that reads its body by itself."""
    return _described(schema.model_json_schema(ref_template=REFERENCE), required=True)


def either_of(*schemas: type[BaseModel]) -> dict[str, Any]:
    """The same of one that takes a body of several kinds, which `openapi` describes when it is asked: to describe a
    chat request takes 0.1 s, which no start should wait for."""
    kinds = [{"$ref": REFERENCE.format(model=one.__name__)} for one in schemas]
    return _described({"anyOf": kinds}, required=True)


def order_of(schema: type[BaseModel]) -> dict[str, Any]:
    """The same of one that takes an order in the body or in the query string."""
    whole = schema.model_json_schema(ref_template=REFERENCE)
    query = [
        {"name": name, "in": "query", "required": False, "schema": one} for name, one in whole["properties"].items()
    ]
    return {"parameters": query, **_described(whole, required=False)}


def _described(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
