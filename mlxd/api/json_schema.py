"""JSON schemas as clients send them: how large they may be, and made ready to become grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mlxd.api.errors import InvalidField
from mlxd.api.strict_json import measure_depth

MAX_SCHEMA_BYTES: Final = 1024 * 1024
MAX_SCHEMA_DEPTH: Final = 32

FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
"""Those that are enforced. To JSON schema any other is a remark, which a validator passes over."""

_ONE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTED: Final = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def schema_bytes(schema: Mapping[str, Any], path: str) -> int:
    """The size of a schema as JSON. Raises `InvalidField` for one that nests too deeply."""
    if measure_depth(schema, MAX_SCHEMA_DEPTH) > MAX_SCHEMA_DEPTH:
        raise InvalidField(f"{path} must nest at most {MAX_SCHEMA_DEPTH} levels.", param=path)
    return len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())


def enforceable(schema: Any) -> Any:
    """The schema without formats that are only remarks, and without what would steer the compiler."""
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value for key, value in schema.items() if key != "x-guidance" and not _is_remark(key, value)}
    made |= {key: enforceable(made[key]) for key in _ONE if key in made}
    made |= {key: [enforceable(one) for one in made[key]] for key in _LISTED if isinstance(made.get(key), list)}
    for key in _NAMED:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: enforceable(one) for name, one in made[key].items()}
    return made


def _is_remark(key: str, value: Any) -> bool:
    return key == "format" and isinstance(value, str) and value not in FORMATS
