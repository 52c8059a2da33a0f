"""Recorded sessions of real agent clients: each answer's echo hangs from the turn that gave it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inference.conversation.lineage import Lineage
from inference.conversation.meaning import meaning_of
from inference.conversation.turn_chain import Edge, Turn
from inference.events import Delta, ToolCallDelta
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.sessions import header_map, session_of
from mlxd.ledger.asked import Answer, asked_of
from mlxd.ledger.whose import Whose
from tests.recorded import FOLDER, needs_recordings

pytestmark = needs_recordings

REBUILT = {"aider"}
"""It takes back what it sent last, and so extends nothing as it was."""

Exchange = tuple[dict[str, Any], dict[str, Any]]


def runs() -> Iterator[tuple[str, list[Exchange]]]:
    """(`client/run`, its chat requests with the answers they got), resumed sessions as one run."""
    joined: dict[str, list[Exchange]] = {}
    for file in sorted(FOLDER.glob("*/*.responses.jsonl")):
        answers = {line["seq"]: line for line in map(json.loads, file.read_text().splitlines())}
        run = file.name.removesuffix(".responses.jsonl")
        for line in file.with_name(f"{run}.jsonl").read_text().splitlines():
            sent = json.loads(line)
            if sent["path"].partition("?")[0] == "/v1/chat/completions" and sent["seq"] in answers:
                session = f"{file.parent.name}/{run.rpartition('t')[0] or run}"
                joined.setdefault(session, []).append((sent, answers[sent["seq"]]))
    yield from joined.items()


RUNS = dict(runs()) if FOLDER.is_dir() else {}


def answer_digest(answer: dict[str, Any]) -> bytes:
    said = Answer()
    if answer["text"]:
        said.add(Delta(answer["text"]))
    for at, call in enumerate(answer["calls"]):
        said.add(ToolCallDelta(at, call["id"], call["name"], call["arguments"]))
    return said.digest(None)


def replay(lineage: Lineage, exchanges: list[Exchange], *, ids: bool) -> Iterator[tuple[Turn, dict[str, Any]]]:
    for number, (sent, answer) in enumerate(exchanges):
        body = sent["body"]
        for message in body["messages"]:
            if isinstance(message.get("content"), list):
                message["content"] = [part for part in message["content"] if part["type"] == "text"]
        conversation = convert_chat(ChatRequest.model_validate(body))
        headers = header_map((name.encode(), value.encode()) for name, value in sent["headers"].items())
        named = session_of(body, headers, "")
        alone = not conversation.tools and not any(message.role == "assistant" for message in conversation.messages)
        whose = Whose("", named.given_name if ids else "", named.given and ids, alone)
        placed = lineage.place(replace(asked_of(meaning_of(conversation), whose), at_s=float(number)))
        yield lineage.commit(placed, (answer_digest(answer),)), body


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without ids"])
@pytest.mark.parametrize("name", RUNS)
def test_a_session_hangs_together(name: str, ids: bool) -> None:
    lineage, last, edges = Lineage(), {}, Counter[str]()
    behind = 0
    for turn, body in replay(lineage, RUNS[name], ids=ids):
        edges[turn.edge.value] += 1
        answered = [message for message in body["messages"] if message["role"] == "assistant"]
        behind += turn.parent is not None
        if turn.edge.advances:
            assert last[turn.line] == turn.parent, "a line moved past somebody"
        last[turn.line] = turn.id
        if name.partition("/")[0] not in REBUILT:
            assert bool(answered) == (turn.parent is not None) == (turn.edge is Edge.EXTEND)
    print(name, "with" if ids else "without", "ids:", dict(edges), f"{len(lineage)} turns, {behind} behind another")
