"""What drifts in the requests of real agents: one row for each, with where it may stand and what it was seen in.

`telemetry` says nothing to a model. An `identifier` names a message anew in each request. A `clock` tells the time of
day or the date. `context` is what a client tells of its surroundings. Everything else is content, unknown reminders
too, and so is anything of an assistant or of a tool, whatever it looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from inference.conversation.matchers import Fenced, GitStatus, Lines, Matcher, Whole, WholeLines


class Kind(StrEnum):
    TELEMETRY = "telemetry"
    IDENTIFIER = "identifier"
    CLOCK = "clock"
    CONTEXT = "context"


class Unit(StrEnum):
    """What a rule is about: a message as a whole, a part of one as a whole, or lines."""

    MESSAGE = "message"
    PART = "part"
    LINES = "lines"


class Place(StrEnum):
    """`head`: system messages before the first other one. `wrapped`: a user's part that a client wrote by itself and
    marked so at its beginning. `user`: any text of a user."""

    HEAD = "head"
    SYSTEM = "system"
    WRAPPED = "wrapped"
    USER = "user"


WRAPPERS = ("<system-reminder>", "<environment_context>", "[Internal task completion event]")
"""How clients begin the parts that they write themselves."""


@dataclass(frozen=True, slots=True)
class Scope:
    unit: Unit
    places: frozenset[Place]


@dataclass(frozen=True, slots=True)
class VolatileRule:
    """`title` is what a model is told it is. `evidence` says where it was seen, and how it drifts there.

    `rebind_safe`: its first form may stay where it was read while a change is told at the end.
    """

    name: str
    title: str
    scope: Scope
    kind: Kind
    matcher: Matcher
    evidence: str
    rebind_safe: bool = False

    def covers(self, text: str) -> bool:
        """This text, and nothing beside it, is what the rule is about."""
        return any(found == (0, len(text)) for found in self.matcher(text))


def _scope(unit: Unit, *places: Place) -> Scope:
    return Scope(unit, frozenset(places))


_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_WORDS = rf"(?:(?:{_DAYS})[a-z]*,? )?(?:{_MONTHS})[a-z]* \d{{1,2}},? \d{{4}}"
_DAY = rf"(?:\d{{4}}-\d\d-\d\d|\d{{1,2}}/\d{{1,2}}/\d{{4}}|{_WORDS})"
"""A date and no time of day: 2026-11-21, 11/21/2026, Sat Nov 21 2026, Saturday, November 21, 2026."""

_WORD = rf"(?:[\d:.,TZ+/-]+|(?:{_DAYS}|{_MONTHS})[a-z]*[,.]?|at|AM|PM|[A-Z]{{2,4}}|[A-Z][a-z]+/[A-Za-z_]+)"
_WHOLE_WORD = rf"(?>{_WORD}(?= |\.?\Z))"
"""Read one way and no other: `AM` and `TZ` are words in two ways, and a line of forty of them took for ever."""
_MOMENT = rf"{_WHOLE_WORD}(?: {_WHOLE_WORD})*\.?"

_AMOUNT = r"[\d.]+[km]?"
_STATS = (
    r"Stats: runtime (?:n/a|(?:[\d.]+(?:ms|[dhms]) ?)+)"
    rf"(?: • tokens {_AMOUNT}(?: \(in {_AMOUNT} / out {_AMOUNT}\))?)?(?: • prompt/cache {_AMOUNT})?"
)

_HEAD_LINES = _scope(Unit.LINES, Place.HEAD)
_DATE_LINES = _scope(Unit.LINES, Place.SYSTEM, Place.WRAPPED)

RULES: tuple[VolatileRule, ...] = (
    VolatileRule(
        "openclaw_context",
        "internal context",
        _scope(Unit.MESSAGE, Place.USER),
        Kind.CONTEXT,
        Whole("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>", "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"),
        "OpenClaw 2026.9.6, recorded: the last message of every request, gone from the history of the next",
        rebind_safe=True,
    ),
    VolatileRule(
        "qwen_date_reminder",
        "current date",
        _scope(Unit.PART, Place.WRAPPED),
        Kind.CLOCK,
        WholeLines(
            (
                re.compile("<system-reminder>"),
                re.compile(rf"The current date is: {_DAY}\.(?: Note: [^\n]*)?"),
                re.compile("</system-reminder>"),
            )
        ),
        "qwen-code 0.24.4, recorded: in the live session, dropped when the session is resumed",
        rebind_safe=True,
    ),
    VolatileRule(
        "claude_billing_header",
        "billing header",
        _HEAD_LINES,
        Kind.TELEMETRY,
        Lines("x-anthropic-billing-header:", re.compile(r"x-anthropic-billing-header:(?: [\w.-]+=[^;\s]*;)+ *")),
        "Claude Code 2.1.330, recorded: line 1; follows the first user message and changes after /compact",
    ),
    VolatileRule(
        "cch",
        "client check",
        _HEAD_LINES,
        Kind.TELEMETRY,
        Lines("cch=", re.compile(r"(?:cch=[0-9a-f]{5,64};\s*)+")),
        "Claude Code, reported by users: a new value in every request; on a line of its own behind some proxies",
    ),
    VolatileRule(
        "runtime_stats",
        "runtime statistics",
        _scope(Unit.LINES, Place.WRAPPED),
        Kind.TELEMETRY,
        Lines("Stats: runtime ", re.compile(_STATS)),
        "OpenClaw source: the last line of a sub-agent's report; with a session key or path in it, it is content",
    ),
    VolatileRule(
        "message_id_tag",
        "message id",
        _scope(Unit.LINES, Place.USER),
        Kind.IDENTIFIER,
        Lines("[message_id: ", re.compile(r"\[message_id: [^\]\n]+\]"), last=True),
        "OpenClaw source: the last line of a user's message from a channel",
    ),
    VolatileRule(
        "message_id_field",
        "message id",
        _scope(Unit.LINES, Place.USER),
        Kind.IDENTIFIER,
        Fenced("Conversation info (untrusted metadata):", re.compile(r'\s*"message_id": "[^"\n]*",?')),
        "OpenClaw source: in the JSON that tells of the channel before a user's message",
    ),
    VolatileRule(
        "todays_date",
        "today's date",
        _DATE_LINES,
        Kind.CLOCK,
        Lines("Today's date", re.compile(rf"\s*(?:[-*] )?Today's date(?: is|:) {_DAY}\.?")),
        "Claude Code 2.1.330 and 2.1.197, opencode 1.18.33, recorded; crush and qwen-code, source",
        rebind_safe=True,
    ),
    VolatileRule(
        "current_date",
        "current date",
        _DATE_LINES,
        Kind.CLOCK,
        Lines("Current date", re.compile(rf"\s*(?:[-*] )?Current date(?: is|:) {_DAY}\.?")),
        "PI 0.73.1, OpenClaw 2026.9.6 and aider, recorded: near the end of the system prompt",
        rebind_safe=True,
    ),
    VolatileRule(
        "codex_date",
        "current date",
        _DATE_LINES,
        Kind.CLOCK,
        Lines("<current_date>", re.compile(rf"\s*<current_date>{_DAY}</current_date>")),
        "Codex 0.169.0, recorded: in the environment block before the first message",
        rebind_safe=True,
    ),
    VolatileRule(
        "current_time",
        "current time",
        _DATE_LINES,
        Kind.CLOCK,
        Lines("urrent time", re.compile(rf"\s*(?:[-*] )?(?:The c|C)urrent time(?: is|:) (?=[^\n]*\d:\d\d){_MOMENT}")),
        "A wish of users for prompts of their own: a time of day, so every request would restate it",
    ),
    VolatileRule(
        "git_status",
        "git status",
        _HEAD_LINES,
        Kind.CONTEXT,
        GitStatus(),
        "qwen-code 0.24.4, recorded: in the system prompt, computed anew when a session is resumed",
        rebind_safe=True,
    ),
    VolatileRule(
        "git_status_reminder",
        "git status",
        _scope(Unit.LINES, Place.WRAPPED),
        Kind.CONTEXT,
        GitStatus(),
        "Claude Code 2.1.330, recorded: in the first message; differs between sessions, never within one",
    ),
    VolatileRule(
        "inbound_context",
        "inbound context",
        _HEAD_LINES,
        Kind.CONTEXT,
        Fenced("## Inbound Context (trusted metadata)"),
        "OpenClaw source: where a message came from; it comes and goes with the channel",
    ),
)
