"""What a hostile text costs: everything that looks for volatile text is linear in it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from inference.conversation.binding import bind
from inference.conversation.spans import MAX_IN_PART, find
from inference.conversation.volatile import RULES
from inference.messages import Conversation, Message, Role, TextPart
from tests.conversations import assistant, system, talk, user

WORDS = ("AM", "TZ", "Mon", "UTC", "12:00", "Europe/Zurich", "at", "May,")


@pytest.mark.parametrize("word", WORDS)
def test_a_line_of_nearly_right_words_is_read_at_once(word: str) -> None:
    """Each of them may be one word in several ways; all of these together would be tried."""
    line = f"Current time: 1:00 {f'{word} ' * 40}!"
    began_s = time.thread_time()
    assert not [found for rule in RULES for found in rule.matcher(line)]
    assert time.thread_time() - began_s < 1


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("end", ["", "."])
def test_a_line_of_right_words_is_found(word: str, end: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == "current_time")
    assert rule.covers(f"Current time: 1:00 {word} {word}{end}")


HOSTILE = (
    "Current date: 2026-11-21\n",
    "gitStatus: so\n\nCurrent branch: main\n\n",
    "Conversation info (untrusted metadata):\n```json\n",
    'Conversation info (untrusted metadata):\n```json\n"message_id": "1"\n```\n',
    "## Inbound Context (trusted metadata)\n```json\n",
)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("parts", [1, 400])
def test_a_request_of_nothing_but_drift_is_read_in_seconds(piece: str, parts: int) -> None:
    """Of 400 kB and some 10,000 places, beside text enough that no rule is refused. It took minutes."""
    text = piece * (400_000 // len(piece) // parts)
    made = tuple(TextPart(f"<system-reminder>\n{text}") for _ in range(parts))
    plain = user("word " * 200_000).parts
    sent = Conversation((Message(Role.SYSTEM, (*made, *plain)), Message(Role.USER, (*made, *plain))))
    began_s = time.thread_time()
    first = bind(sent)
    again = Conversation((*sent.messages, assistant("ok"), user("more")))
    bind(again, replace(first.memory, echoed=True))
    assert time.thread_time() - began_s < 20


@pytest.mark.parametrize(("lines", "found"), [(MAX_IN_PART, MAX_IN_PART), (MAX_IN_PART + 1, 0)])
def test_of_too_many_places_in_one_text_none_is_taken(lines: int, found: int) -> None:
    text = "Current date: 2026-11-21\n" * lines + "word " * 9000
    assert len(find(talk(system(text))).spans) == found
