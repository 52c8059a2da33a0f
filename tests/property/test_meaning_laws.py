"""Laws of remembering what messages mean: nobody can tell it from reading them anew, and it stays within its room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.meaning import KNOWN_BYTES, Sayings, meaning_of
from inference.messages import Conversation, Message
from tests.conversations import assistant, call, result, system, talk, user
from tests.drift import dated_system, qwen_date

TAGS = ("<think>", "</think>")
messages = st.sampled_from(
    [
        system("Be brief."),
        dated_system("2026-11-21"),
        dated_system("2026-11-22"),
        user("Look."),
        user("Look.\r\n"),
        user(qwen_date("2026-11-21"), "Look."),
        assistant("<think>hm</think>Done."),
        assistant("Done.", reasoning="hm"),
        assistant("", call("c1", name="read_file")),
        assistant("", call("c1", name="write_file")),
        result("c1", "text"),
        replace(result("c1", "text"), name="read_file"),
    ]
)
conversations = st.lists(messages, min_size=1, max_size=8).map(lambda drawn: talk(*drawn))
rooms = st.sampled_from([0, 3 * KNOWN_BYTES, 1 << 20])


def copied(conversation: Conversation) -> Conversation:
    """Equal, and no object of it the same."""
    return replace(conversation, messages=tuple(replace(one) for one in conversation.messages))


@given(st.lists(conversations, min_size=1, max_size=6), rooms, st.sampled_from([None, TAGS]))
def test_what_was_read_before_means_what_it_means_anew(
    asked: list[Conversation], room: int, think: tuple[str, str] | None
) -> None:
    sayings = Sayings(room)
    for conversation in asked:
        assert meaning_of(copied(conversation), think, saying=sayings) == meaning_of(conversation, think)
        assert 0 <= sayings.nbytes <= room


@pytest.mark.parametrize("number", [0, 1, 7])
def test_a_place_in_the_conversation_is_part_of_a_saying(number: int) -> None:
    sayings, one = Sayings(), user("Look.")
    sayings(one, 3, None, None)

    assert sayings(one, number, None, None)[0].message == number


def test_what_is_forgotten_is_gone() -> None:
    sayings = Sayings()
    meaning_of(talk(user("canary")), saying=sayings)
    sayings.forget()

    assert (sayings.nbytes, held_by(sayings)) == (0, [])


def held_by(sayings: Sayings) -> list[Message]:
    return [message for message, *_ in sayings._known]
