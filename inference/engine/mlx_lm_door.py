"""The one place that imports mlx-lm, because importing it changes the process.

`mlx_lm.utils` sets RLIMIT_NOFILE to (2048, 4096) at import (0.32.2). That takes file descriptors from a daemon that
holds a thousand sockets, cannot be undone without privileges, and fails outright where the hard limit is lower. So
the call is made a no-op while the import runs.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _file_limit_untouched() -> Iterator[None]:
    kept = resource.setrlimit
    resource.setrlimit = lambda _resource, _limits: None
    try:
        yield
    finally:
        resource.setrlimit = kept


with _file_limit_untouched():
    from mlx_lm.models.cache import (
        ArraysCache,
        BatchKVCache,
        BatchRotatingKVCache,
        CacheList,
        KVCache,
        QuantizedKVCache,
        RotatingKVCache,
        make_prompt_cache,
    )
    from mlx_lm.utils import _get_classes, get_total_parameters, load_model

__all__ = [
    "ArraysCache",
    "BatchKVCache",
    "BatchRotatingKVCache",
    "CacheList",
    "KVCache",
    "QuantizedKVCache",
    "RotatingKVCache",
    "get_total_parameters",
    "has_architecture",
    "load_model",
    "make_prompt_cache",
]


def has_architecture(config: dict[str, Any]) -> bool:
    """Whether mlx-lm itself can build what a checked config names, so that no code has to come with the model."""
    try:
        _get_classes(config)
    except (ValueError, AttributeError):
        return False
    return True
