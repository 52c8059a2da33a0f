"""What the schema of the admin API says of bodies is true: who reads one says so, and every name in it is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.keys import access
from mlxd.keys.access import Access
from tests.integration.api_scripted import Call, StandIn, get
from tests.integration.installed import ADMIN, TOKEN

OWN = {**ADMIN, "origin": "http://127.0.0.1:8080"}


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[None]:
    runtime.install(StandIn())  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    access.install(Access())
    yield
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


async def described() -> dict[str, Any]:
    found: dict[str, Any] = (await get("/api/openapi.json", headers=ADMIN)).json()
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from references(one)


async def test_every_operation_that_reads_a_body_says_which() -> None:
    told = await described()
    orders = [(path, verb, one) for path, item in told["paths"].items() for verb, one in item.items() if verb != "get"]
    assert len(orders) > 10
    for path, verb, one in orders:
        call = Call(verb.upper(), path.replace("{model_id}", "tiny").replace("{name}", "x"), b"{", headers=OWN)
        answer = await call.start().result()
        reads = answer.status == 400 and answer.refusal["code"] == "invalid_json"
        assert reads == ("requestBody" in one), f"{verb} {path}: {answer.status} {answer.body!r}"


async def test_every_name_in_the_schema_is_explained() -> None:
    told = await described()
    found = set(references(told))
    assert {"#/components/schemas/ChatRequest", "#/components/schemas/CompletionRequest"} <= found
    for reference in found:
        at: Any = told
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("/api/cache/explain", {"messages": [{"role": "user", "content": "x"}]}, {"messages": "x"}),
        ("/api/cache/explain", {"prompt": "Once", "max_tokens": 4}, {"prompt": "Once", "max_tokens": "four"}),
        ("/api/cache/import", {"batch": "one"}, {}),
        ("/api/login", {"code": "c"}, {"code": 1}),
    ],
)
async def test_bodies_are_told_apart_by_the_schema(path: str, good: Any, bad: Any) -> None:
    told = await described()
    schema = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": told["components"]}
    jsonschema.validate(json.loads(json.dumps(good)), whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, whole)
