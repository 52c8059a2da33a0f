"""Recordings played again: own answers in place of recorded ones, spelled as the client would, and what that needs.

The recordings are made up here, in the shape of real ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.canonical import canonical_arguments
from mlxd.probe import forced
from mlxd.probe.asks import Ask, Message, Said
from mlxd.probe.echo import CLIENTS
from mlxd.probe.recording import NotRecordings, Recorded, read
from mlxd.probe.traffic import Replay
from tests.tokenizers_in_code import text_model

ARGUMENTS = '{ "path" : "/srv/orchard/p\\u00e9ar.py" , "limit" : 50.0 }'
PICK = {"type": "function", "function": {"name": "pick", "parameters": {"type": "object"}}}


def call(call_id: str, arguments: str = ARGUMENTS, name: str = "pick") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(*calls: dict[str, Any], text: str | None = None, thought: str = "") -> Message:
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    return message | ({"tool_calls": list(calls)} if calls else {})


SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Pick a pear."}
ECHO = answer(call("callrec00000001", '{"path":"/srv/orchard/péar.py","limit":50}'), thought="hm")
RESULT = {"role": "tool", "tool_call_id": "callrec00000001", "content": "a pear"}
MORE = {"role": "user", "content": "Thank you."}


def recorded(folder: Path, client: str, *requests: Sequence[Message]) -> Recorded:
    """A run of requests, answered by a call first and by text ever after."""
    (folder / client).mkdir()
    lines = [
        {"seq": seq, "path": "/v1/chat/completions", "body": {"model": "m", "tools": [PICK], "messages": [*messages]}}
        for seq, messages in enumerate(requests)
    ]
    called = {
        "reasoning": "hm",
        "text": None,
        "calls": [{"id": "call_rec_00000001", "name": "pick", "arguments": ARGUMENTS}],
    }
    told: dict[str, Any] = {"reasoning": None, "text": "\n\nPicked.\n", "calls": []}
    answers = [{"seq": seq, **(told if seq else called)} for seq in range(len(requests))]
    (folder / client / "s1t1.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / client / "s1t1.responses.jsonl").write_text("\n".join(map(json.dumps, answers)))
    (found,) = read(folder)
    return found


def played(replay: Replay, *answers: Message) -> list[Ask]:
    play, left = replay.play(), iter(answers)
    asks = list(next(play, ()))
    while len(asks) <= len(answers):
        try:
            asks += play.send([next(left)])
        except StopIteration:
            break
    return asks


THREE = (
    [SYSTEM, QUESTION],
    [SYSTEM, QUESTION, ECHO, RESULT],
    [SYSTEM, QUESTION, ECHO, RESULT, answer(text="Picked."), MORE],
)
OWN = answer(call("call_own_1234567890", '{"path": "x", "limit": 1.0}'), thought="  I pick. ")


def test_own_answers_go_back_as_the_client_spells_them(tmp_path: Path) -> None:
    asks = played(Replay(recorded(tmp_path, "openclaw", *THREE), lambda _: True), OWN, answer(text="Picked!"), MORE)
    assert [ask.foreign for ask in asks] == [0, 0, 0]
    echoed = CLIENTS["openclaw"].of(OWN)
    assert asks[1].messages[2] == echoed and echoed["tool_calls"][0]["id"] == "callown1234567890"
    assert echoed["tool_calls"][0]["function"]["arguments"] == '{"path":"x","limit":1}'
    assert asks[1].messages[3]["tool_call_id"] == "callown1234567890"
    assert asks[1].meant[2] == OWN and asks[1].meant[3]["tool_call_id"] == "call_own_1234567890"
    assert asks[2].messages[4]["content"] == "Picked!"
    assert asks[0].say == Said("", (("pick", ARGUMENTS),)) and len({ask.session for ask in asks}) == 1


def test_an_answer_with_other_calls_is_not_sent_back_as_the_servers(tmp_path: Path) -> None:
    """The results that follow belong to the recorded calls, so these stay, and are counted."""
    asks = played(
        Replay(recorded(tmp_path, "pi", *THREE), lambda _: True), answer(text="No."), answer(text="Picked."), MORE
    )
    assert [ask.foreign for ask in asks] == [0, 1, 1]
    assert asks[1].messages[2] == asks[1].meant[2] == ECHO and asks[1].messages[3] == RESULT


def test_requests_beyond_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    found = recorded(tmp_path, "pi", *THREE)
    short = Replay(found, lambda ask: len(ask.messages) < 4)
    assert len(played(short, OWN, MORE)) == 1 and short.left_out == 2 and "2 requests left out" in short.note
    few = Replay(found, lambda _: True, max_requests=2)
    assert len(played(few, OWN, MORE, MORE)) == 2 and few.left_out == 1


@pytest.mark.parametrize("content", ["", "no json\n", '{"seq": 0, "path": "/v1/messages", "body": {}}\n'])
def test_a_folder_without_chat_requests_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "run.jsonl").write_text(content)
    with pytest.raises(NotRecordings):
        read(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("client", CLIENTS)
@given(arguments=st.dictionaries(st.text(max_size=4), values, max_size=4), spaced=st.booleans())
def test_no_client_changes_what_arguments_mean(client: str, arguments: dict[str, Any], spaced: bool) -> None:
    text = json.dumps(arguments, indent=2 if spaced else None, ensure_ascii=spaced)
    sent = CLIENTS[client].of(answer(call("call_1", text)))["tool_calls"][0]["function"]["arguments"]
    assert canonical_arguments(sent) == canonical_arguments(text)


def test_a_forced_answer_is_one_text_and_no_call_before_it() -> None:
    said = Said("I pick.\n", (("pick", ARGUMENTS), ("pick", "{}")))
    fields = forced.fields(text_model("chatml"), said, 8)
    (choice,) = fields["structured_outputs"]["choice"]
    assert choice.startswith("I pick.\n\n<tool_call>") and choice.count("<tool_call>") == 2 and ARGUMENTS in choice
    assert fields["max_tokens"] > len(choice)
    assert forced.obeyed(said, answer(call("1"), call("2"))) and not forced.obeyed(said, answer(call("1")))
    assert not forced.fields(text_model("chatml"), Said("x" * 5000), 8) and not forced.fields(
        text_model("chatml"), None, 8
    )
