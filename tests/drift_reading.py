"""What a client of a drifting conversation has been read, and whether the next request goes on from there."""

from __future__ import annotations

from inference.conversation.render import render
from inference.messages import Message
from tests.drift import Client
from tests.tokenizers_in_code import text_model

MODEL = text_model("channels")


def read_before(client: Client) -> tuple[int, ...]:
    """The ids of the last prompt up to the header of its answer."""
    assert client.bound is not None
    prompt = render(MODEL, client.bound.conversation)
    return prompt.ids[: prompt.header]


def goes_on(client: Client, *messages: Message) -> bool:
    """Whether the next request's prompt begins with all that was read for the last one."""
    before = read_before(client)
    client.ask(*messages)
    assert client.bound is not None
    return render(MODEL, client.bound.conversation).ids[: len(before)] == before


def fates(client: Client) -> list[tuple[str, str]]:
    assert client.bound is not None
    return [(entry.rule, entry.fate.value) for entry in client.bound.ledger.entries]
