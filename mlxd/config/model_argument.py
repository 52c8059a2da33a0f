"""What one `--model` says: where the model is and, optionally, what clients call it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._:@+-]*"
MODEL_NAME: Final = rf"{_PART}(/{_PART})*"
"""What clients may call a model, by id or alias, from a flag, a setting or an order. No part of it leads anywhere."""
MAX_NAME_CHARS: Final = 256
_NAME: Final = re.compile(MODEL_NAME)


def is_model_name(text: str) -> bool:
    """Whether clients may call a model this."""
    return len(text) <= MAX_NAME_CHARS and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """`source` is a directory or a repository id; `name` is "" where the model keeps its own."""

    source: str
    name: str = ""


def model_argument(text: str) -> ModelArgument:
    """Reads `SOURCE` or `NAME=SOURCE`. A directory whose path holds a `=` is taken as it stands if it exists.

    >>> model_argument("coder=/models/qwen")
    ModelArgument(source='/models/qwen', name='coder')
    >>> model_argument("owner/repo")
    ModelArgument(source='owner/repo', name='')
    """
    name, equals, source = text.partition("=")
    if not equals or not source or not is_model_name(name) or Path(text).expanduser().is_dir():
        return ModelArgument(text)
    return ModelArgument(source, name)
