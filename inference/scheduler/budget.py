"""How much device memory rows will need, before they are let in.

A batch pads every row to its longest, so rows decode in lanes whose longest is at most twice the shortest, and a lane
costs rows x longest. The estimate is weights + lanes + one copy of the longest row while it is assembled + workspace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from inference.params import KVQuantisation
from inference.ports import ModelLimits

Load = tuple[ModelLimits, Sequence[int]]
"""A resident model and the lengths in tokens its rows may reach."""


def held_tokens(tokens: int, kv: KVQuantisation | None) -> int:
    """How many tokens of unquantised KV take as much memory as this many of a row.

    By 16-bit models, which save least; each group of values brings a scale and a bias.
    """
    if kv is None:
        return tokens
    share = kv.bits / 16 + 2 / kv.group_size
    return max(min(tokens, kv.start_tokens), ceil(tokens * share))


def lanes(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """(rows, longest) of each lane these rows may form."""
    out: list[tuple[int, int]] = []
    for length in sorted(lengths, reverse=True):
        if out and 2 * length >= out[-1][1]:
            out[-1] = (out[-1][0] + 1, out[-1][1])
        else:
            out.append((1, length))
    return out


def estimate_bytes(loads: Iterable[Load]) -> int:
    """Device memory that these models with these rows may come to need."""
    loads = list(loads)
    total = workspace = 0
    for limits, lengths in loads:
        shapes = lanes(lengths)
        total += limits.weights_bytes + sum(rows * limits.row_bytes(longest) for rows, longest in shapes)
        if shapes:
            workspace = max(workspace, limits.workspace_bytes)
    return total + assembly_bytes(loads) + workspace


def assembly_bytes(loads: Iterable[Load]) -> int:
    """The part of the estimate that is a row's copy while it is assembled."""
    return max((limits.row_bytes(max(lengths)) for limits, lengths in loads if lengths), default=0)


def fits(loads: Iterable[Load], limit_bytes: int) -> bool:
    """Whether the estimate is within the limit; a limit of 0 is none."""
    return limit_bytes <= 0 or estimate_bytes(loads) <= limit_bytes
