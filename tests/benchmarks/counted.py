"""`counted.py FILE MODULE ARGUMENT...`: runs a server and counts its prefill where the model is called.

Every call with more than one token per row adds its tokens (rows x length, padding included, since that is computed
too) to the eight bytes of FILE. Calls of one token per row are decode steps; the last token of a prompt may be fed by
the first of them. Needs nothing but mlx-lm: it runs in the environments of other servers as well.
"""

from __future__ import annotations

import functools
import mmap
import resource
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NUMBER = struct.Struct("<q")


def begin(place: Path) -> None:
    """Makes the counter; what a server computes before its first `tokens` is read counts as well."""
    place.write_bytes(_NUMBER.pack(0))


def tokens(place: Path) -> int:
    """What the process that runs over this counter has prefilled so far."""
    (count,) = _NUMBER.unpack(place.read_bytes())
    return int(count)


def main() -> None:
    place, name, *arguments = sys.argv[1:]
    _count_in(Path(place))
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _count_in(place: Path) -> None:
    """Replaces `mlx_lm.utils.load_model`, which all three servers load through."""
    kept, resource.setrlimit = resource.setrlimit, lambda *_: None  # mlx-lm lowers the limit of open files at import
    try:
        from mlx_lm import utils
    finally:
        resource.setrlimit = kept
    with place.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _NUMBER.size)
    load = utils.load_model

    @functools.wraps(load)
    def load_counted(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        kind = type(loaded[0])
        kind.__call__ = _counted(kind.__call__, shared)
        return loaded

    utils.load_model = load_counted


def _counted(call: Callable[..., Any], shared: mmap.mmap) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if inputs.shape[1] > 1:
            _NUMBER.pack_into(shared, 0, _NUMBER.unpack_from(shared)[0] + inputs.size)
        return call(model, inputs, *args, **kwargs)

    return counted


if __name__ == "__main__":
    main()
