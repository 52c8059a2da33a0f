"""`logit_bias`: an object from token ids, written as strings, to what is added to their logits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mlxd.api.errors import InvalidField

_ID: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def read_bias(sent: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    """(id, bias) pairs of the model's own ids. Raises `InvalidField` for any other key."""
    bias = []
    for key, value in sent.items():
        if not _ID.fullmatch(key) or int(key) >= vocab_size:
            message = f"The keys of logit_bias must be token ids: integers from 0 to {vocab_size - 1}."
            raise InvalidField(message, param="logit_bias")
        bias.append((int(key), value))
    return tuple(bias)
