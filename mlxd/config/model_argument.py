"""What one `--model` says: where the model is and, optionally, what clients call it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*")


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
    if not equals or not source or not MODEL_ID.fullmatch(name) or Path(text).expanduser().is_dir():
        return ModelArgument(text)
    return ModelArgument(source, name)
