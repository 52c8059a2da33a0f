"""Session ids: found wherever a client writes them, apart per client, safe in a header and absent from the log."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.tokens import Boundary, Prompt
from mlxd.api.schemas import ChatRequest, CompletionRequest
from mlxd.api.sessions import BODY_FIELDS, HEADERS, NESTED, fields_of, header_map, name_of, session_name, session_of
from mlxd.api.stable_prefix import whole_messages

USER_IDS = [json.dumps({"device_id": "d", "session_id": "s1"}), "user_ab12_account__session_s1"]
BODIES = [
    *({field: "s1"} for field in (*BODY_FIELDS, "prompt_cache_key")),
    *({place: {field: "s1"}} for place in NESTED for field in (*BODY_FIELDS, "prompt_cache_key")),
    *({"metadata": {"user_id": text}} for text in USER_IDS),
    {"conversation": {"id": "s1"}},
    {"session_id": "  s1 "},
]


@pytest.mark.parametrize("body", BODIES, ids=json.dumps)
def test_an_id_is_found_in_every_place_of_a_body(body: dict[str, object]) -> None:
    found = session_of(body, {}, "")
    assert (found.id, found.given) == ("s1", True)
    chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **body})
    assert session_of(fields_of(chat), {}, "") == found


@pytest.mark.parametrize("header", HEADERS)
def test_an_id_is_found_in_every_header_however_it_is_written(header: str) -> None:
    for name in (header, header.title(), header.replace("-", "_")):
        headers = header_map([(b"accept", b"*/*"), (name.encode(), b"s1")])
        assert session_of({}, headers, "").id == "s1"


def test_what_is_said_of_the_request_beats_what_is_said_of_the_connection_and_a_cache_key_comes_last() -> None:
    everything = {field: field for field in BODY_FIELDS} | {"prompt_cache_key": "key"}
    headers = {name: name for name in HEADERS}
    order = [*BODY_FIELDS, *HEADERS, "key"]
    found = []
    while everything or headers:
        found.append(session_of(everything, headers, "").id)
        everything.pop(found[-1], None) if found[-1] != "key" else everything.clear()
        headers.pop(found[-1], None)
    assert found == order


@pytest.mark.parametrize(
    "body",
    [{}, {"session_id": ""}, {"session_id": True}, {"session_id": ["s"]}, {"metadata": "s"}, {"conversation": {"x": 1}},
     {"metadata": {"user_id": "{broken"}}, {"metadata": {"user_id": "[]"}},
     {"metadata": {"user_id": '{"session_id": {}}'}}, {"metadata": {"user_id": "plain"}}],
    ids=str,
)  # fmt: skip
def test_without_an_id_each_request_has_a_fresh_one_that_the_store_does_not_know(body: dict[str, object]) -> None:
    one, other = session_of(body, {}, ""), session_of(body, {}, "")
    assert not one.given and one.given_name == "" and one.id != other.id
    assert len(bytes.fromhex(one.id.removeprefix("conv_"))) == 16


def test_an_id_that_was_told_comes_back_to_its_session_and_to_nobody_elses() -> None:
    told = session_of({}, {}, "a")
    again = session_of({}, {"x-conv-id": told.header}, "a")
    assert (again.name, again.given, again.id) == (told.name, True, told.id)
    assert session_of({}, {"x-conv-id": told.header}, "b").name != told.name
    chosen = f"conv_{session_name('a', 'mine')}"
    assert name_of("a", chosen) != session_name("a", "mine")
    assert name_of("a", chosen, knows=lambda _: True) == session_name("a", "mine")
    assert name_of("a", told.id.upper(), knows=lambda _: True) != told.name


def test_what_a_request_goes_on_from_names_it_unless_its_client_did() -> None:
    fresh, chosen = session_of({}, {}, ""), session_of({"session_id": "s1"}, {}, "")
    other = session_of({}, {}, "")
    found = fresh.known_as(other.name)
    assert (found.id, found.name, found.header) == (other.id, other.name, other.header)
    assert fresh.known_as(None) is fresh.known_as(fresh.name) is fresh
    assert chosen.known_as(other.name) is chosen


@given(text=st.text(min_size=1), client=st.sampled_from(["", "a", "b"]))
def test_two_keys_never_meet_in_one_session(text: str, client: str) -> None:
    names = {session_name(key, text) for key in ("", "a", "b", f"{client}x")}
    assert len(names) == 4
    assert session_name(client, text) == session_name(client, text)


def test_a_key_and_an_id_cannot_be_shifted_into_each_other() -> None:
    assert session_name("ab", "c") != session_name("a", "bc") != session_name("", "abc")


@given(st.text(min_size=1, max_size=2000))
def test_an_id_is_safe_in_a_header_and_comes_back_as_it_was_where_it_can(text: str) -> None:
    found = session_of({"session_id": text}, {}, "")
    assert set(found.header) <= set(string.printable) - set("\r\n\t\x0b\x0c")
    assert len(found.header) <= 1024
    plain = found.id.isascii() and found.id.isprintable() and not set(found.id) & set('%"<>\\')
    if plain and found.given and len(found.id) <= 1024:
        assert found.header == found.id
    if found.given and len(found.id) > 12:
        assert found.id not in found.log_name


def test_a_completion_has_a_session_too() -> None:
    body = CompletionRequest.model_validate({"prompt": "x", "metadata": {"chat_id": "s1"}})
    assert session_of(fields_of(body), {}, "").id == "s1"


PROMPT = Prompt(tuple(range(100)), (Boundary(0, 3), Boundary(1, 40), Boundary(2, 60)), header=90)


@pytest.mark.parametrize(("tokens", "whole"), [(0, 0), (39, 0), (40, 1), (59, 1), (60, 2), (89, 2), (90, 3), (99, 3)])
def test_a_message_counts_when_its_last_token_was_there(tokens: int, whole: int) -> None:
    assert whole_messages(PROMPT, tokens) == whole


def test_a_raw_prompt_has_no_messages() -> None:
    assert whole_messages(Prompt((1, 2, 3)), 3) == 0
