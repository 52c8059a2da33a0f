"""Which echoes are recognised, as what, and that nobody gets what was said to someone else."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from inference.conversation.healing import MAX_SESSIONS, HealingStore, Recognised
from inference.conversation.meaning import Meaning, meaning_of
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.messages import Message, Tool, ToolCall
from tests.conversations import assistant, call, result, system, talk, user

TAGS = ("<think>", "</think>")
MODEL = "model"
WRITE = Tool(
    "write",
    "",
    {
        "properties": {
            "mode": {"default": "text"},
            "limit": {"default": 10.0},
            "options": {"properties": {"deep": {"default": True}}},
            "rows": {"items": {"properties": {"kind": {"default": "plain"}}}},
        }
    },
)
ASK = (system("Be careful."), user("Write it."))
ARGUMENTS = '{ "path": "a.txt", "content": "one  \\ntwo\\n", "options": {"n": 1}, "rows": [{"x": 1}], "limit": 50.0}'
SAID = SpokenTurn(
    RawTurn.of((1, 2, 3)), "\n\nI write.\n", "First I think.\n", (ToolCall("call0a1", "write", ARGUMENTS),)
)


def recognised(store: HealingStore, *messages: Message, scope: str = MODEL, tools: tuple[Tool, ...] = ()) -> Recognised:
    return store.recognise(scope, meaning_of(talk(*messages, tools=tools), TAGS))


def remembered(*before: Message, turn: SpokenTurn, tools: tuple[Tool, ...] = ()) -> HealingStore:
    store = HealingStore()
    store.remember(MODEL, recognised(store, *before, tools=tools).prefix, turn)
    return store


def outcome(echo: Message) -> str:
    store = remembered(*ASK, turn=SAID, tools=(WRITE,))
    found = recognised(store, *ASK, echo, result("call0a1", "ok"), tools=(WRITE,))
    healed = found.outcomes[2].value in ("not_needed", "healed", "healed_normalised")
    assert found.raw == ({2: SAID.raw} if healed else {})
    return found.outcomes[2].value


def echo(arguments: str = ARGUMENTS, text: str = SAID.text, reasoning: str = SAID.reasoning, **call: str) -> Message:
    made = ToolCall(call.get("id", "call0a1"), call.get("name", "write"), arguments)
    return assistant(text, made, reasoning=reasoning)


COMPACT = '{"path":"a.txt","content":"one  \\ntwo\\n","options":{"n":1},"rows":[{"x":1}],"limit":50}'


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (echo(), "not_needed"),
        (echo(COMPACT), "healed"),
        (echo(reasoning=""), "healed"),
        (echo(reasoning="First I think."), "healed"),
        (echo(text="I write."), "healed"),
        (echo(id="call_0a1"), "healed"),
        (echo(text="<think>\nFirst I think.\n</think>\n\nI write.", reasoning=""), "healed"),
        # rewordings of real clients
        (echo(reasoning="think."), "healed_normalised"),
        (echo(COMPACT[:-1] + ',"replace_all":false}'), "healed_normalised"),
        (echo(COMPACT[:-1] + ',"a":"","b":null,"c":0,"d":[],"e":{}}'), "healed_normalised"),
        (echo(COMPACT[:-1] + ',"mode":"text"}'), "healed_normalised"),
        (echo(COMPACT.replace('{"n":1}', '{"n":1,"deep":true}')), "healed_normalised"),
        (echo(COMPACT.replace('{"x":1}', '{"x":1,"kind":"plain"}')), "healed_normalised"),
        (echo(COMPACT.replace("one  ", "one")), "healed_normalised"),
        # edits, each next to one of the above
        (echo(COMPACT[:-1] + ',"replace_all":true}'), "refused_edited"),
        (echo(COMPACT[:-1] + ',"mode":"raw"}'), "refused_edited"),
        (echo(COMPACT.replace(',"limit":50', "")), "refused_edited"),
        (echo(COMPACT.replace('"limit":50', '"limit":10')), "refused_edited"),
        (echo(COMPACT.replace('"limit":50', '"limit":"50"')), "refused_edited"),
        (echo(COMPACT.replace('{"n":1}', '{"n":true}')), "refused_edited"),
        (echo(COMPACT.replace('{"n":1}', '{"n":1,"deep":false,"more":1}')), "refused_edited"),
        (echo(COMPACT.replace("one  ", "one ")), "refused_edited"),
        (echo(COMPACT.replace("one  ", "one    ")), "refused_edited"),
        (echo(COMPACT.replace("two\\n", "two")), "refused_edited"),
        (echo(COMPACT.replace("one", " one")), "refused_edited"),
        (echo(COMPACT[:-1]), "refused_edited"),
        (echo(name="write_file"), "refused_edited"),
        (echo(text="I wrote."), "refused_edited"),
        (echo(text=""), "refused_edited"),
        (echo(reasoning="First I thought."), "refused_edited"),
        (echo(reasoning="First I"), "refused_edited"),
        (echo(reasoning="So, First I think."), "refused_edited"),
        (echo(text="I write it.", reasoning="think."), "refused_edited"),
        (replace(echo(), tool_calls=(*echo().tool_calls, call("call0a2"))), "refused_edited"),
        (echo(id="call0a2"), "not_found"),
        (assistant(SAID.text), "not_found"),
    ],
)
def test_a_turn_with_calls(message: Message, expected: str) -> None:
    assert outcome(message) == expected


def test_arguments_that_are_no_object_are_compared_to_the_letter() -> None:
    for said, other in (("[1, 2]", "[1,2]"), ('{"a": 1, "a": 2}', '{"a":1,"a":2}'), ('{"a": ', '{"a":')):
        turn = replace(SAID, calls=(replace(SAID.calls[0], arguments=said),))
        for sent, expected in ((said, "not_needed"), (other, "refused_edited")):
            found = recognised(remembered(*ASK, turn=turn), *ASK, echo(sent))
            assert found.outcomes[2].value == expected


def test_every_call_of_a_turn_counts() -> None:
    calls = tuple(ToolCall(f"call0a{number}", "write", ARGUMENTS) for number in (1, 2))
    store = remembered(*ASK, turn=replace(SAID, calls=calls))
    for other, expected in (
        (calls[1], "not_needed"),
        (replace(calls[1], id="call0a3"), "refused_edited"),
        (replace(calls[1], name="read"), "refused_edited"),
        (replace(calls[1], arguments="{}"), "refused_edited"),
    ):
        message = replace(echo(), tool_calls=(calls[0], other))
        assert recognised(store, *ASK, message).outcomes[2].value == expected


# --- turns without calls ----------------------------------------------------------------------------------------

HELLO = SpokenTurn(RawTurn.of((7, 8)), "Hello.")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ((*ASK, assistant("Hello.")), "not_needed"),
        ((*ASK, assistant(" Hello.\n")), "healed"),
        ((system("Be careful."), user("Write", " it."), assistant("Hello.")), "not_needed"),
        ((*ASK, assistant("Hello!")), "refused_edited"),
        ((system("Be careful!"), user("Write it."), assistant("Hello.")), "not_found"),
        ((user("Write it."), assistant("Hello.")), "not_found"),
        ((*ASK, user("Write it."), assistant("Hello.")), "not_found"),
    ],
)
def test_a_text_is_known_by_all_that_stands_before_it(messages: tuple[Message, ...], expected: str) -> None:
    found = recognised(remembered(*ASK, turn=HELLO), *messages, user("And now?"))
    assert found.outcomes[len(messages) - 1].value == expected


def test_other_tools_and_other_models_are_another_history() -> None:
    store = remembered(*ASK, turn=HELLO)
    assert recognised(store, *ASK, assistant("Hello."), scope="other").outcomes[2] == "not_found"
    assert recognised(store, *ASK, assistant("Hello."), tools=(WRITE,)).outcomes[2] == "not_found"


def test_equal_texts_behind_different_histories_keep_their_own_ids() -> None:
    store = HealingStore()
    for number in range(20):
        before = recognised(store, system("Be careful."), user(f"Question {number}"))
        store.remember(MODEL, before.prefix, SpokenTurn(RawTurn.of((number,)), "Done."))
    for number in range(20):
        found = recognised(store, system("Be careful."), user(f"Question {number}"), assistant("Done."))
        assert found.raw[2].ids == (number,)


def test_twins_are_told_apart_by_their_thoughts_or_not_at_all() -> None:
    """One question asked twice, one answer in two spellings: a client that drops the thoughts could mean either."""
    one, other = (SpokenTurn(RawTurn.of((number,)), "Hello.", f"thought {number}") for number in (1, 2))
    store = remembered(*ASK, turn=one)
    store.remember(MODEL, recognised(store, *ASK).prefix, other)
    assert recognised(store, *ASK, assistant("Hello.")).outcomes[2] == "not_found"
    assert recognised(store, *ASK, assistant("Hello.", reasoning="thought 2 ")).raw[2] == other.raw
    assert recognised(store, *ASK, assistant("Hello.", reasoning="thought 3")).outcomes[2] == "refused_edited"
    assert recognised(store, *ASK, assistant("Hello.", reasoning="2")).raw[2] == other.raw


def test_a_whole_thought_is_taken_before_the_end_of_another() -> None:
    whole, longer = (SpokenTurn(RawTurn.of((len(text),)), "Hello.", text) for text in ("a b", "so a b"))
    store = remembered(*ASK, turn=whole)
    store.remember(MODEL, recognised(store, *ASK).prefix, longer)
    assert recognised(store, *ASK, assistant("Hello.", reasoning="a b")).raw[2] == whole.raw
    assert recognised(store, *ASK, assistant("Hello.", reasoning="b")).outcomes[2] == "not_found"


def test_the_same_answer_twice_is_one_turn() -> None:
    store = remembered(*ASK, turn=HELLO)
    store.remember(MODEL, recognised(store, *ASK).prefix, HELLO)
    assert len(store) == 1
    assert recognised(store, *ASK, assistant("Hello.")).raw[2] == HELLO.raw


def test_a_history_stays_the_same_when_a_client_begins_to_drop_thoughts() -> None:
    """As some do when a session is resumed."""
    thought = replace(HELLO, reasoning="I greet.")
    store = remembered(*ASK, turn=thought)
    kept = (*ASK, assistant("Hello.", reasoning="I greet."), user("Go on."))
    store.remember(MODEL, recognised(store, *kept).prefix, SpokenTurn(RawTurn.of((9,)), "Done."))
    dropped = (*ASK, assistant("Hello."), user("Go on."), assistant("Done."), user("Thanks."))
    assert recognised(store, *dropped).raw[4].ids == (9,)


def test_a_store_without_room_keeps_nothing() -> None:
    store = HealingStore(max_turns=0)
    store.remember(MODEL, recognised(store, *ASK).prefix, HELLO)
    assert len(store) == 0
    assert recognised(store, *ASK, assistant("Hello.")).outcomes[2] == "not_found"


def test_what_said_nothing_is_not_kept() -> None:
    store = remembered(*ASK, turn=SpokenTurn(RawTurn.of((7,)), " \n", "a thought"))
    assert len(store) == 0
    assert recognised(store, *ASK, assistant("")).outcomes[2] == "not_found"


# --- the store --------------------------------------------------------------------------------------------------


def ask(number: int) -> Meaning:
    return meaning_of(talk(user(f"Question {number}")))


def test_the_least_recently_used_turns_go_first() -> None:
    store = HealingStore(max_turns=3)
    for number in range(3):
        store.remember(MODEL, store.recognise(MODEL, ask(number)).prefix, HELLO)
    recognised(store, user("Question 0"), assistant("Hello."))
    store.remember(MODEL, store.recognise(MODEL, ask(3)).prefix, HELLO)
    found = [bool(recognised(store, user(f"Question {n}"), assistant("Hello.")).raw) for n in range(4)]
    assert found == [True, False, True, True]
    assert len(store) == 3


def test_bytes_are_bounded_too() -> None:
    store = HealingStore(max_bytes=50_000)
    for number in range(100):
        store.remember(MODEL, store.recognise(MODEL, ask(number)).prefix, SpokenTurn(RawTurn.of(range(2000)), "Hello."))
        assert store.nbytes <= 50_000
    assert 1 <= len(store) <= 6
    store.remember(MODEL, store.recognise(MODEL, ask(1000)).prefix, SpokenTurn(RawTurn.of(range(50_000)), "Hello."))
    assert len(store) == 1


def test_sessions_that_say_the_same_are_bounded_and_each_that_is_known_can_be_forgotten() -> None:
    store = HealingStore()
    for number in range(3 * MAX_SESSIONS):
        store.remember(MODEL, store.recognise(MODEL, ask(0)).prefix, HELLO, f"session {number}")
        assert sum(map(len, store._sessions.values())) <= MAX_SESSIONS
    assert recognised(store, user("Question 0"), assistant("Hello.")).raw
    assert (store.forget_session(f"session {number}"), len(store)) == (1, 0)


def test_what_a_session_said_goes_before_it_is_not_known_whose_it_was() -> None:
    store = HealingStore()
    store.remember(MODEL, store.recognise(MODEL, ask(0)).prefix, SpokenTurn(RawTurn.of((9,)), "Mine."), "mine")
    for number in range(MAX_SESSIONS):
        store.remember(MODEL, store.recognise(MODEL, ask(0)).prefix, HELLO, f"session {number}")
    assert store.forget_session("mine") == 0 and len(store) == 1
    assert not recognised(store, user("Question 0"), assistant("Mine.")).raw


def test_every_outcome_is_counted() -> None:
    store = remembered(*ASK, turn=HELLO)
    recognised(store, *ASK, assistant("Hello."), user("a"), assistant("b"), user("c"))
    recognised(store, *ASK, assistant(" Hello."))
    assert store.counts == {"not_needed": 1, "not_found": 1, "healed": 1}


def test_many_threads_at_once() -> None:
    store = HealingStore(max_turns=50)
    wrong: list[int] = []

    def work(base: int) -> None:
        for number in range(base, base + 200):
            store.remember(MODEL, store.recognise(MODEL, ask(number)).prefix, replace(HELLO, raw=RawTurn.of((number,))))
            found = recognised(store, user(f"Question {number}"), assistant("Hello.")).raw
            wrong.extend(n for n, raw in found.items() if raw.ids != (number,))

    threads = [threading.Thread(target=work, args=(base,)) for base in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store) == 50
