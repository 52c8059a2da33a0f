"""Stop strings across any cut of the text: an Aho-Corasick automaton that holds back only what may still become one.

Which match wins: the one that is complete first, since nothing after it needs to be generated; of several that
are complete at the same character, the longest. So the answer ends before `text[:end].endswith(string)` first holds,
whatever the cuts, and no token is drawn only to see whether a longer string would have come true.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Automaton:
    """States of the strings' trie: `edges` to longer prefixes, `fail` to the longest proper suffix that is a prefix.

    `depth` is the length of a state's prefix, `match` the length of the longest string ending in it (0: none).
    """

    edges: tuple[dict[str, int], ...]
    fail: tuple[int, ...]
    depth: tuple[int, ...]
    match: tuple[int, ...]


@lru_cache(maxsize=64)
def automaton(strings: tuple[str, ...]) -> Automaton:
    """The automaton of these strings, kept for the next request: agents send the same ones every turn."""
    if not all(strings):
        raise ValueError("a stop string is not empty")
    edges: list[dict[str, int]] = [{}]
    depth, match = [0], [0]
    for string in strings:
        state = 0
        for length, char in enumerate(string, 1):
            if char not in edges[state]:
                edges[state][char] = len(edges)
                edges.append({})
                depth.append(length)
                match.append(0)
            state = edges[state][char]
        match[state] = len(string)
    fail = _link(edges, match)
    return Automaton(tuple(edges), tuple(fail), tuple(depth), tuple(match))


def _link(edges: list[dict[str, int]], match: list[int]) -> list[int]:
    """Failure links, breadth first; a state that ends no string itself takes the match of its suffix."""
    fail = [0] * len(edges)
    queue = deque(edges[0].values())
    while queue:
        state = queue.popleft()
        match[state] = match[state] or match[fail[state]]
        for char, child in edges[state].items():
            suffix = fail[state]
            while suffix and char not in edges[suffix]:
                suffix = fail[suffix]
            fail[child] = edges[suffix].get(char, 0)
            queue.append(child)
    return fail


class StopMatcher:
    """Finds the stop strings of one answer. Costs O(1) a character; holds back less than the longest string."""

    __slots__ = ("_automaton", "_held", "_state", "stopped")

    def __init__(self, strings: tuple[str, ...] = ()) -> None:
        self._automaton = automaton(strings) if strings else None
        self._state = 0
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string was found (then nothing more is ever shown)."""
        found = self._automaton
        if found is None:
            return text, False
        if self.stopped:
            return "", True
        edges, fail, match = found.edges, found.fail, found.match
        state = self._state
        for index, char in enumerate(text):
            while char not in edges[state] and state:
                state = fail[state]
            state = edges[state].get(char, 0)
            if match[state]:
                return self._stop(text, index + 1 - match[state])
        self._state = state
        return self._advance(text, found.depth[state]), False

    def finish(self) -> str:
        """What was held back as the beginning of a stop string that did not come."""
        held, self._held = self._held, ""
        return held

    def _stop(self, text: str, start: int) -> tuple[str, bool]:
        """Ends before `start`, an index into `text` that is negative where the string began in what is held."""
        self.stopped = True
        seen = self._held + text
        shown = seen[: len(self._held) + start]
        self._held = ""
        return shown, True

    def _advance(self, text: str, open_chars: int) -> str:
        """Shows all but the last `open_chars`, which may be the beginning of a stop string."""
        seen = self._held + text
        shown = len(seen) - open_chars
        self._held = seen[shown:]
        return seen[:shown]
