"""What a grammar may cost, and how its fault is told.

Three caps stand behind each other: time in a process that can be killed, the library's own counts, and text size.
"""

from __future__ import annotations

from typing import Final

from llguidance import LLParserLimits

COMPILE_S: Final = 2.0
MAX_STEP_S: Final = 0.1
"""CPU time to decide on one token. Every stream of the lane waits for it."""

MAX_LARK_BYTES: Final = 2 << 20
MAX_COMPILED_BYTES: Final = 128 << 20
CACHED_GRAMMARS: Final = 64
CACHED_BYTES: Final = 64 << 20
FLOOR_BYTES: Final = 64 << 10
"""What the smallest compiled grammar is counted as."""

OVERDUE_KEPT_S: Final = 60.0
"""For so long a grammar that was overdue is refused unseen: sent again and again, a bomb costs 2 s of each minute."""

_MAX_REASON_CHARS: Final = 200

LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)


_COMPLEX: Final = ("too many", "items; max is", "fuel", "too big", "too large", "recursion limit")
"""What the library says where one of its counts ran out."""


def reason(message: str) -> str:
    """The library's message in one short line: where in the grammar we built it is of no use to a client."""
    line, *rest = message.strip().splitlines() or [""]
    line = line.partition("failed to compile JSON schema: ")[2] or line
    if line.rstrip().endswith("regex parse error:"):
        line = next((one.strip().removeprefix("error: ") for one in rest if one.startswith("error:")), line)
    if any(sign in line.lower() for sign in _COMPLEX):
        return "it is too complex"
    if line.startswith("Resource "):
        return f"{line.split()[1]} is not part of it, and nothing is fetched"
    line = " ".join(line.split()).partition(". ")[0].rstrip(".")
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "..."
