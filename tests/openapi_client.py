"""A client made of an OpenAPI schema, as generators make one: a method for each operation, arguments by their schemas.

It sends only what the schema says and refuses an answer that the schema does not know, so it shows that the schema is
true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema

type Send = Callable[[str, str, str, bytes], Awaitable[tuple[int, bytes]]]
"""(method, path, query, body) to (status, body)."""


class Refused(Exception):
    """An answer of the form that the schema gives errors."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {error['code']}: {error['message']}")
        self.status = status
        self.code = error["code"]


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    described: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        return {one["name"]: one for one in self.described.get("parameters", ())}

    @property
    def body(self) -> Mapping[str, Any] | None:
        found = self.described.get("requestBody")
        return None if found is None else found["content"]["application/json"]["schema"]


class OpenApiClient:
    """`client.call("name", argument=..., body={...})`; names are operation ids, short ones where they are plain."""

    def __init__(self, schema: Mapping[str, Any], send: Send) -> None:
        self.schema = schema
        self._send = send
        self.operations: dict[str, Operation] = {}
        for path, item in schema["paths"].items():
            for method, described in item.items():
                name = described["operationId"]
                assert name not in self.operations, f"two operations are called {name}"
                self.operations[name] = Operation(method.upper(), path, described)

    def named(self, path: str, method: str) -> str:
        return next(name for name, one in self.operations.items() if (one.path, one.method) == (path, method))

    async def call(self, name: str, body: Any = None, **arguments: Any) -> Any:
        one = self.operations[name]
        unknown = arguments.keys() - one.parameters.keys()
        assert not unknown, f"{name} takes no {unknown}"
        path, query = one.path, {}
        for argument, described in one.parameters.items():
            if argument not in arguments:
                assert not described.get("required"), f"{name} needs {argument}"
                continue
            if described["in"] == "path":
                path = path.replace("{" + argument + "}", quote(str(arguments[argument]), safe="/"))
            else:
                query[argument] = arguments[argument]
        assert not re.search(r"\{", path), path
        if body is not None:
            assert one.body is not None, f"{name} takes no body"
            self._check(body, one.body)
        raw = b"" if body is None else json.dumps(body).encode()
        status, answer = await self._send(one.method, path, urlencode(query), raw)
        responses = one.described["responses"]
        if str(status) in responses or status < 300:
            return json.loads(answer)
        told = json.loads(answer)
        self._check(told, responses["default"]["content"]["application/json"]["schema"])
        raise Refused(status, told["error"])

    def _check(self, value: Any, schema: Mapping[str, Any]) -> None:
        jsonschema.validate(value, {**schema, "components": self.schema["components"]})
