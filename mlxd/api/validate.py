"""From a checked JSON object to a schema, with errors a client can act on.

pydantic finds the fault; the words are ours: JSON path, rule, limit, and nothing of the input or of Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from mlxd.api.errors import InvalidField

MISSING: Final = "missing_required_parameter"
WRONG_TYPE: Final = "invalid_type"
WRONG_VALUE: Final = "invalid_value"

_PHRASES: Final[dict[str, tuple[str, str]]] = {
    "missing": (MISSING, "is required"),
    "string_type": (WRONG_TYPE, "must be a string"),
    "bool_type": (WRONG_TYPE, "must be true or false"),
    "int_type": (WRONG_TYPE, "must be an integer"),
    "int_from_float": (WRONG_TYPE, "must be an integer"),
    "float_type": (WRONG_TYPE, "must be a number"),
    "list_type": (WRONG_TYPE, "must be an array"),
    "dict_type": (WRONG_TYPE, "must be an object"),
    "model_type": (WRONG_TYPE, "must be an object"),
    "union_tag_not_found": (WRONG_TYPE, "must be a string or an array of content parts"),
    "greater_than": (WRONG_VALUE, "must be greater than {gt}"),
    "greater_than_equal": (WRONG_VALUE, "must be at least {ge}"),
    "less_than": (WRONG_VALUE, "must be less than {lt}"),
    "less_than_equal": (WRONG_VALUE, "must be at most {le}"),
    "string_too_short": (WRONG_VALUE, "must have at least {min_length} character"),
    "string_too_long": (WRONG_VALUE, "must have at most {max_length} characters"),
    "too_short": (WRONG_VALUE, "must have at least {min_length} item"),
    "too_long": (WRONG_VALUE, "must have at most {max_length} items"),
    "string_pattern_mismatch": (WRONG_VALUE, "holds a character that is not allowed there"),
    "literal_error": (WRONG_VALUE, "must be one of {expected}"),
    "finite_number": (WRONG_VALUE, "must be a finite number"),
}


def validate[Body: BaseModel](schema: type[Body], value: Mapping[str, Any]) -> Body:
    """`value` as `schema`. Raises `InvalidField` for the first fault."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
    path = json_path(fault["loc"])
    code, phrase = _PHRASES.get(fault["type"], (WRONG_VALUE, "is not valid"))
    if fault["type"] == "too_long":  # the limit is enough; pydantic counts the items lazily
        phrase = phrase.format(max_length=fault["ctx"]["max_length"])
    elif fault.get("ctx"):
        phrase = phrase.format(**fault["ctx"])
    raise InvalidField(f"{path} {phrase}.", param=path, code=code)


def json_path(loc: tuple[int | str, ...]) -> str:
    """`("messages", 3, "content", "<parts>", 0, "text")` as `messages[3].content[0].text`; `<tags>` are ours."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            path += f".{step}" if path else step
    return path
