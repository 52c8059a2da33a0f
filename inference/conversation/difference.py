"""In words, why a prompt is not what its session read last: message, field and rule of the first token that differs,
and the texts on both sides.

A store knows tokens. What a token came from is known where the prompt was made: its source map names the field of the
request, its boundaries the message, the ledger of spans the text that drifts, and the conversation whether it was the
client or the template that left a thought out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from inference.conversation.span_ledger import Entry, SpanLedger
from inference.conversation.turns import ThinkTags
from inference.events import Parting
from inference.messages import Conversation, Role, Tool
from inference.ports import Tokenizer
from inference.tokens import Prompt, Span, TokenIds

AROUND_TOKENS = 16
SEARCHED_TOKENS = 2048
"""How far around the difference a drifting text is looked for."""
SHOWN_CHARS = 160
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_OWN_KEYS = re.compile(r"(\.arguments|\.parameters)\b.*", re.DOTALL)


class Why(StrEnum):
    """First words of verdicts, beside those that a store knows by itself."""

    DIVERGED = "diverged"
    TOOLS_CHANGED = "tools_changed"
    REASONING_STRIPPED = "reasoning_stripped"
    RETAINED_LIMIT = "retained_limit"


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is of fixed words and numbers: keys that a client chose are left out, and "" is text of the template.

    `message` is a number in the request, None before its first message and in one of mlxd's own. `what` is the name of
    a tool, or `template` or `client`. `rule` names the volatile rule that found the text there. `before` is common,
    then the request has `sent` and its session had `stored`: content, for people who may read it.
    """

    why: Why
    token: int
    message: int | None = None
    path: str = ""
    rule: str = ""
    what: str = ""
    before: str = ""
    sent: str = ""
    stored: str = ""

    def __str__(self) -> str:
        """A verdict: ASCII, and nothing in it that a client wrote but the name of a tool."""
        match self.why:
            case Why.TOOLS_CHANGED | Why.REASONING_STRIPPED:
                said = [self.what]
            case Why.RETAINED_LIMIT:
                said = [f"token {self.token}"]
            case Why.DIVERGED:
                said = [self.path or self._message, self.rule and f"rule {self.rule}", f"token {self.token}"]
        told = ", ".join(filter(None, said))
        return f"{self.why}({told})" if told else str(self.why)

    @property
    def _message(self) -> str:
        return "" if self.message is None else f"messages[{self.message}]"


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt and what it was made of: the conversation as it was rendered, what became of its drifting text, the
    numbers of the request's messages that are read as the model spoke them, the markers of thoughts, the tools of the
    session's last request (None: nobody knows), and whether its template `keeps` thoughts once the user has spoken
    again."""

    tokenizer: Tokenizer
    prompt: Prompt
    conversation: Conversation
    spans: SpanLedger | None = None
    spoken: frozenset[int] = frozenset()
    think: ThinkTags | None = None
    tools_before: tuple[Tool, ...] | None = None
    keeps: bool = True


def difference(reading: Reading, parting: Parting) -> Difference:
    """The place of a parting, and the most telling reason for it."""
    prompt, at = reading.prompt, parting.token
    span = prompt.source.at(at)
    number = _message_at(prompt, at, span)
    path = span.path if span is not None else ""
    texts = (
        shown(reading.tokenizer, prompt.ids[max(0, at - AROUND_TOKENS) : at])[-SHOWN_CHARS:],
        shown(reading.tokenizer, prompt.ids[at : at + AROUND_TOKENS])[:SHOWN_CHARS],
        shown(reading.tokenizer, parting.stored[:AROUND_TOKENS])[:SHOWN_CHARS],
    )
    why, what, rule = Why.DIVERGED, "", ""
    answer = _answer_at(reading, at, number)
    if (tool := _changed_tool(reading, path, at)) is not None:
        why, what = Why.TOOLS_CHANGED, tool
    elif answer is not None and _lacks_thought(reading.think, texts):
        why, what, number = Why.REASONING_STRIPPED, _stripped_by(reading, answer), answer
    elif reading.spans is not None and reading.spans.limit_reached:
        why = Why.RETAINED_LIMIT
    elif reading.spans is not None and span is not None and path:
        rule = _rule_at(reading, span, at, reading.spans.entries)
    return Difference(why, at, _request_number(reading, number), public_path(path), rule, what, *texts)


def shown(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Markers included, and borders within a character shown as such."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")


def public_path(path: str) -> str:
    """A path as far as its words are those of the API: arguments and schemas have keys that a client or a model chose.

    >>> public_path("messages[3].tool_calls[0].function.arguments.file.path")
    'messages[3].tool_calls[0].function.arguments'
    """
    return _OWN_KEYS.sub(r"\1", path)


# --- messages ---------------------------------------------------------------------------------------------------


def _message_at(prompt: Prompt, token: int, span: Span | None) -> int | None:
    """The rendered message that a token belongs to. Of the template's text between two messages the first token is the
    end of one, and what follows leads to the next."""
    begun = [at for at, boundary in enumerate(prompt.boundaries) if boundary.token <= token]
    between = span is not None and not span.path and token > span.start
    at = len(begun) - (0 if between and len(begun) < len(prompt.boundaries) else 1)
    return prompt.boundaries[at].message if 0 <= at < len(prompt.boundaries) else None


def _request_number(reading: Reading, number: int | None) -> int | None:
    """The number that a rendered message has in the request; None for one that is not of it."""
    if number is None or number >= len(reading.conversation.messages):
        return None
    found = re.match(r"messages\[(\d+)\]", reading.conversation.messages[number].path or f"messages[{number}]")
    return int(found[1]) if found else None


# --- reasons ----------------------------------------------------------------------------------------------------


def _changed_tool(reading: Reading, path: str, token: int) -> str | None:
    """The tool whose change is seen first, "" for one whose name is no plain word; None: it is not the tools."""
    now, before = reading.conversation.tools, reading.tools_before
    if path.startswith("tools["):
        if before is None or before == now:
            at = int(path[6:].partition("]")[0])
            return _plain(now[at].name) if at < len(now) else ""
        return _plain(_first_other(before, now))
    if path or before is None or before == now:
        return None
    begun = (boundary.message for boundary in reading.prompt.boundaries if boundary.token <= token)
    in_front = all(reading.conversation.messages[at].role is Role.SYSTEM for at in begun)
    return _plain(_first_other(before, now)) if in_front else None


def _first_other(before: Sequence[Tool], now: Sequence[Tool]) -> str:
    """Added, taken out or changed: the first tool that is not as it was."""
    at = next((at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        longer = now if len(now) > len(before) else before
        return longer[min(len(before), len(now))].name
    kept = {tool.name for tool in now}
    return before[at].name if before[at].name not in kept else now[at].name


def _plain(name: str) -> str:
    return name if _NAME.fullmatch(name) else ""


def _answer_at(reading: Reading, token: int, number: int | None) -> int | None:
    """The answer that a token belongs to. One that says nothing has no text of its own, and lies before the message to
    which the template's text seems to lead."""
    begun = [boundary.message for boundary in reading.prompt.boundaries if boundary.token <= token]
    if number is None or not begun:
        return None
    between = range(begun[-1], min(number + 1, len(reading.conversation.messages)))
    return next((at for at in between if reading.conversation.messages[at].role is Role.ASSISTANT), None)


def _lacks_thought(think: ThinkTags | None, texts: tuple[str, str, str]) -> bool:
    """Whether a thought stands where the texts part, in what was stored and not in what was sent."""
    if think is None:
        return False
    opener, closer = (tag.strip() for tag in think)
    before, sent, stored = (text.strip() for text in texts)
    opened = stored.startswith(opener) and not sent.startswith(opener)
    emptied = before.endswith(opener) and sent.startswith(closer) and not stored.startswith(closer)
    return opened or emptied


def _stripped_by(reading: Reading, answer: int) -> str:
    """Who left the thought of an answer out. Where it was sent, or is known as the model spoke it, the template did;
    where it would have, to send it would not have helped."""
    said, *behind = reading.conversation.messages[answer:]
    known = _request_number(reading, answer) in reading.spoken or bool(said.reasoning)
    passed = not reading.keeps and any(message.role is Role.USER for message in behind)
    return "template" if known or passed else "client"


def _rule_at(reading: Reading, span: Span, at: int, entries: Sequence[Entry]) -> str:
    """The rule that found the drifting text in which a token stands."""
    here = [entry for entry in entries if entry.path == span.path]
    if not here:
        return ""
    ids: TokenIds = reading.prompt.ids
    start, stop = max(span.start, at - SEARCHED_TOKENS), min(span.stop, at + SEARCHED_TOKENS)
    text, place = shown(reading.tokenizer, ids[start:stop]), len(shown(reading.tokenizer, ids[start:at]))
    for entry in here:
        for words in (entry.read.strip(), entry.sent.strip()):
            found = text.find(words) if words else -1
            if found >= 0 and found - 1 <= place <= found + len(words):
                return entry.rule
    return ""
