"""The types every schema is made of: no coercion, except 5.0 for 5 (JavaScript clients have one number type)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class Body(BaseModel):
    """Strict, and unknown fields are dropped: agents send extras. A null is the same as an absent field."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


def _integral(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


Integral = BeforeValidator(_integral)
Count = Annotated[int, Field(ge=1, le=INT32_MAX), Integral]
"""At least one of something countable."""

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PLAIN)]
"""An id or a name: no control characters."""

Label = Annotated[str, StringConstraints(max_length=1024, pattern=_PLAIN)]
"""A short text about the request that no model reads."""

Tag = Annotated[str, StringConstraints(max_length=64)]
