"""What real clients send back of earlier answers, recognised: never a wrong turn, and hardly one missed.

All runs share one store. Each recorded answer gets ids that say which answer it is. The oracle does not look at any
content: an answer belongs where the conversation it answered ended, told by session, first message and position.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.healing import HealingStore, Recognised
from inference.conversation.meaning import meaning_of
from inference.conversation.render import render, render_with_notes
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.messages import Conversation, Message, Role, TextPart, ToolCall
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from tests.recorded import FOLDER, needs_recordings
from tests.tokenizers_in_code import text_model

pytestmark = needs_recordings
Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A recorded request and its answer. `session` is the client's, over several runs."""

    client: str
    session: str
    conversation: Conversation
    answer: SpokenTurn

    @property
    def opening(self) -> str:
        """Its first two messages: sub-agents and titles have their own."""
        return "\0".join(message.text for message in self.conversation.messages[:2])

    @property
    def place(self) -> Place:
        """Where its answer will stand: which of the conversation's assistant messages it becomes."""
        answers = sum(message.role is Role.ASSISTANT for message in self.conversation.messages)
        return (self.session, self.opening, answers)


@cache
def exchanges() -> tuple[Exchange, ...]:
    return tuple(_exchanges())


def _exchanges() -> Iterator[Exchange]:
    for file in sorted(FOLDER.glob("*/*.responses.jsonl")):
        run = file.name.removesuffix(".responses.jsonl")
        requests = {one["seq"]: one for one in _lines(file.with_name(f"{run}.jsonl"))}
        for answer in _lines(file):
            request = requests[answer["seq"]]
            if request["path"].partition("?")[0] != "/v1/chat/completions":
                continue
            session = re.sub(r"(s\d+)t\d+$", r"\1", run)
            yield Exchange(
                file.parent.name, f"{file.parent.name}/{session}", _conversation(request["body"]), _answer(answer)
            )


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _conversation(body: dict[str, Any]) -> Conversation:
    for message in body["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = [part for part in message["content"] if part["type"] == "text"]
    return convert_chat(ChatRequest.model_validate(body))


_made = count(1)


def _answer(recorded: dict[str, Any]) -> SpokenTurn:
    calls = tuple(ToolCall(one["id"], one["name"], one["arguments"]) for one in recorded["calls"])
    raw = RawTurn.of((next(_made),))
    return SpokenTurn(raw, recorded["text"] or "", recorded["reasoning"] or "", calls)


@dataclass(slots=True)
class Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    echoes: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def judge(self, one: Exchange, found: Recognised, due: dict[Place, SpokenTurn]) -> None:
        messages = one.conversation.messages
        spoken = [at for at, message in enumerate(messages) if message.role is Role.ASSISTANT]
        for position, at in enumerate(spoken):
            self.outcomes[found.outcomes[at].value] += 1
            expected = due.get((one.session, one.opening, position))
            is_echo = expected is not None and _says_the_same(messages[at], expected)
            self.echoes += is_echo
            where = f"{one.session} message {at}: {found.outcomes[at].value}"
            if is_echo and at not in found.raw:
                self.missed.append(where)
            if at in found.raw and (expected is None or found.raw[at] != expected.raw):
                self.wrong.append(where)


def _says_the_same(message: Message, answer: SpokenTurn) -> bool:
    """To see that a client did send the answer back at all, and not something of its own in its place."""
    names = [call.name for call in message.tool_calls], [call.name for call in answer.calls]
    return message.text.strip() == answer.text.strip() and names[0] == names[1]


def replay(order: list[Exchange]) -> dict[str, Tally]:
    store = HealingStore()
    due: dict[Place, SpokenTurn] = {}
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for one in order:
        found = store.recognise("model", meaning_of(one.conversation, ("<think>", "</think>")))
        tallies[one.client].judge(one, found, due)
        store.remember("model", found.prefix, one.answer)
        due[one.place] = one.answer
    return tallies


def test_no_echo_is_taken_for_another_and_hardly_one_missed() -> None:
    tallies = replay(list(exchanges()))
    for client, tally in tallies.items():
        print(
            f"{client}: {tally.echoes} echoes, {len(tally.missed)} missed, {len(tally.wrong)} wrong,",
            dict(tally.outcomes),
        )
    assert not [where for tally in tallies.values() for where in tally.wrong]
    assert not [where for tally in tallies.values() for where in tally.missed]
    assert sum(tally.echoes for tally in tallies.values()) > 150


def test_interleaved_sessions_never_meet() -> None:
    """All sessions a step at a time in turn, and beside each a twin that says and is told the same."""
    lanes: dict[str, list[Exchange]] = defaultdict(list)
    for one in exchanges():
        for twin in ("", " again"):
            lanes[one.session + twin].append(_renamed(one, twin))
    order = [lane[step] for step in range(max(map(len, lanes.values()))) for lane in lanes.values() if step < len(lane)]
    tallies = replay(order)
    assert not [where for tally in tallies.values() for where in tally.wrong]
    assert not [where for tally in tallies.values() for where in tally.missed]


def _renamed(one: Exchange, twin: str) -> Exchange:
    """The same exchange in another session: a word more in its system text, other call ids, answers of its own."""
    if not twin:
        return one
    talk, answer = one.conversation, one.answer
    own = replace(answer, calls=_renamed_calls(answer.calls, twin), raw=_twin_raw(answer.raw))
    messages = tuple(_renamed_message(message, twin) for message in talk.messages)
    return Exchange(one.client, one.session + twin, replace(talk, messages=messages), own)


def _renamed_message(message: Message, twin: str) -> Message:
    said = (*message.parts, TextPart(twin)) if message.role is Role.SYSTEM else message.parts
    answered = message.tool_call_id and message.tool_call_id + twin
    return replace(message, parts=said, tool_calls=_renamed_calls(message.tool_calls, twin), tool_call_id=answered)


def _renamed_calls(calls: tuple[ToolCall, ...], twin: str) -> tuple[ToolCall, ...]:
    return tuple(replace(call, id=call.id + twin) for call in calls)


@cache
def _twin_raw(raw: RawTurn) -> RawTurn:
    return RawTurn.of((next(_made),))


@pytest.mark.parametrize("style", ["chatml", "xml_arguments", "instruct", "header_trim", "channels"])
def test_every_recognised_turn_is_spliced(style: str) -> None:
    """Turns stand in their place whatever surrounds them, and around them the prompt is what it was."""
    text, store, counts = text_model(style), HealingStore(), Counter[str]()
    for one in exchanges():
        found = store.recognise("model", meaning_of(one.conversation))
        made = render_with_notes(text, one.conversation, found.raw)
        counts.update({"recognised": len(found.raw), "spliced": made.adaptations.get("spliced", 0)})
        assert all(raw.ids[0] in made.prompt.ids for raw in found.raw.values()) or made.adaptations.get("unspliced")
        if not found.raw:
            assert made.prompt == render(text, one.conversation)
        store.remember("model", found.prefix, one.answer)
    print(style, dict(counts))
    assert counts["recognised"] > 100
    one_call_a_turn = not text.traits.shape.parallel_calls  # there, results stand between the calls of one answer
    assert counts["spliced"] >= counts["recognised"] * (0.8 if one_call_a_turn else 1)
