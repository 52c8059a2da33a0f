"""Recurrent states on the way through the tree."""

from __future__ import annotations

from inference.cache.node import Node, Snapshot


def states_on(path: list[Node]) -> list[Snapshot]:
    """Those that a path goes through, the deepest last."""
    before = [node.parent for node in path]
    found = [
        held
        for node, following in zip([*before[:1], *path], [*path, None], strict=True)
        if node is not None
        for suffix, held in node.snapshots.items()
        if not suffix or (following is not None and following.ids.startswith(suffix))
    ]
    return sorted(found, key=lambda held: held.depth)
