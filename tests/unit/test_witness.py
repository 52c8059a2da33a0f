"""The witness beside real prompts: what it counts, what it must not count, and that it holds nothing up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inference.conversation.difference import Reading
from inference.conversation.render import render
from inference.conversation.turn_chain import Asked, Edge, Placed, Turn
from inference.events import Admitted, Delta, Event, Finished, FinishReason, Parting, Usage
from inference.messages import Conversation, TextPart
from mlxd.ledger import witness as room
from mlxd.ledger.witness import REMEMBERED_SESSIONS, Observed, Witness, Witnessed
from tests.talks import LONG, talk, tool
from tests.tokenizers_in_code import text_model

TEXT = text_model()
SENT = talk(LONG, "one", "two", "three")


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness(check_every=1)
    yield made
    made.close()


def reading(read: Conversation = SENT) -> Reading:
    return Reading(TEXT.tokenizer, render(TEXT, read), read)


def placed(known_messages: int, session: str = "s", parent: str = "s", edge: Edge = Edge.EXTEND) -> Placed:
    before = Turn("t", parent, "", "t", None, None, Edge.START, 0, 2, (), (), b"", b"", 0.0)
    return Placed(Asked(()), (), session, edge, known_messages, before, None)


def ended(verdict: str, parting: Parting | None) -> tuple[Event, ...]:
    return (Delta("Hi"), Finished(FinishReason.STOP, Usage(9, verdict=verdict, parting=parting)))


def watched(seen: Observed, events: tuple[Event, ...]) -> tuple[Event, ...]:
    through = Witnessed(seen)
    told = through.told(events)
    through.ended()
    seen.witness.settle()
    return told


def parting_in(text: str) -> Parting:
    """In the middle of a field's text."""
    prompt = reading().prompt
    at = next(boundary.token for boundary in prompt.boundaries if SENT.messages[boundary.message].text == text)
    return Parting(at, (prompt.ids[at] + 1,))


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edge", "cached_tokens", "words"),
    [
        (Edge.START, 7, "first_seen"),
        (Edge.START, 32, "branched"),
        (Edge.SIDE_CALL, 7, "diverged(messages[1].content, token {})"),
        (Edge.BRANCH, 7, "diverged(messages[1].content, token {})"),
    ],
)
def test_a_conversation_that_begins_behind_a_title_has_left_nothing(
    witness: Witness, edge: Edge, cached_tokens: int, words: str
) -> None:
    """The store knows of sessions; that nothing but a side call was in it, only the lineage knows."""
    parting = parting_in("one")
    verdict, seen = f"diverged(token {parting.token})", witness.observe(reading(), SENT, placed(0, edge=edge))
    usage = Usage(9, cached_tokens, verdict=verdict, parting=parting)
    events = (Admitted("r", 9, cached_tokens, verdict, parting=parting), Finished(FinishReason.STOP, usage))
    admitted, finished = watched(seen, events)
    assert isinstance(admitted, Admitted) and isinstance(finished, Finished)
    assert admitted.verdict == finished.usage.verdict == words.format(parting.token)
    assert witness.counts["diverged"] == (0 if edge is Edge.START else 1)


# --- content ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "merged", "sentence", "legacy"])
def test_what_is_all_read_is_checked_and_nothing_is_lost(witness: Witness, kind: str) -> None:
    sent = talk(LONG, "  café\n\n\tnaïve 日本 🙂 <|im_end|> ", "two", "three")
    model = text_model(kind=kind)
    made = Reading(model.tokenizer, render(model, sent), sent)
    watched(witness.observe(made, sent, None), ended("extended", None))
    assert (witness.counts["content_checked"], witness.counts["content_lost"]) == (1, 0)


@pytest.mark.parametrize("dropped", range(len(SENT.messages)))
def test_a_message_that_was_dropped_on_the_way_is_counted_and_named(
    witness: Witness, monkeypatch: pytest.MonkeyPatch, dropped: int
) -> None:
    """The planted fault of a renderer: a message is replaced by an empty one."""
    said: list[dict[str, object]] = []
    monkeypatch.setattr(room.log, "error", lambda event, **more: said.append({"event": event, **more}))
    messages = list(SENT.messages)
    messages[dropped] = replace(messages[dropped], parts=(TextPart("-"),))
    watched(witness.observe(reading(Conversation(tuple(messages))), SENT, None), ended("extended", None))
    assert (witness.counts["content_checked"], witness.counts["content_lost"]) == (1, 1)
    assert said == [{"event": "content_lost", "count": 1, "places": f"messages[{dropped}].content"}]


def test_one_request_in_so_many_is_checked_and_none_at_0() -> None:
    for every, checked in ((1, 9), (4, 3), (0, 0)):
        witness = Witness(check_every=every)
        for _ in range(9):
            watched(witness.observe(reading(), SENT, None), ended("extended", None))
        assert witness.counts["content_checked"] == checked
        witness.close()


def test_a_check_holds_no_answer_up_and_never_becomes_a_queue(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, started = threading.Event(), threading.Event()

    def slow(*_: object) -> tuple[object, ...]:
        started.set()
        assert release.wait(10)
        return ()

    monkeypatch.setattr(room, "lost_from", slow)
    began_s = time.perf_counter()
    for _ in range(5):
        assert len(Witnessed(witness.observe(reading(), SENT, None)).told(ended("extended", None))) == 2
    assert time.perf_counter() - began_s < 5
    assert started.wait(10)
    release.set()
    witness.settle()
    assert witness.counts["content_checked"] == 1


def test_a_check_that_breaks_breaks_nothing(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(room, "lost_from", broken)
    assert len(watched(witness.observe(reading(), SENT, None), ended("extended", None))) == 2
    assert witness.counts["content_checked"] == 0


def test_an_answer_goes_on_where_its_verdict_cannot_be_put_in_words(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise IndexError("no")

    monkeypatch.setattr(room, "difference", broken)
    events = ended("diverged(token 1)", Parting(1))
    assert Witnessed(witness.observe(reading(), SENT, None)).told(events) == events


def test_an_answer_goes_on_beside_a_witness_that_is_closed() -> None:
    witness = Witness(check_every=1)
    witness.close()
    events = ended("extended", None)
    assert Witnessed(witness.observe(reading(), SENT, None)).told(events) == events


def test_nothing_is_checked_before_the_answer_has_begun(witness: Witness) -> None:
    through = Witnessed(witness.observe(reading(), SENT, None))
    through.told((Admitted("r", 9),))
    witness.settle()
    assert witness.counts["content_checked"] == 0


# --- echoes -----------------------------------------------------------------------------------------------------


def test_a_known_field_that_reads_otherwise_is_counted(witness: Witness) -> None:
    told = watched(witness.observe(reading(), SENT, placed(3)), ended("diverged(token 1)", parting_in("two")))
    assert isinstance(told[1], Finished) and told[1].usage.verdict.startswith("diverged(messages[2].content, token ")
    assert witness.counts["exact_key_rejected_by_model_lcp"] == witness.counts["diverged"] == 1


@pytest.mark.parametrize(
    ("where", "verdict", "text"),
    [
        (placed(2), "diverged(token 1)", "two"),  # the client changed it
        (placed(3, parent="other"), "diverged(token 1)", "two"),  # what it goes on from is another session's
        (None, "diverged(token 1)", "two"),
        (placed(3), "evicted(by r1)", "two"),
    ],
)
def test_what_has_another_reason_is_not_counted(
    witness: Witness, where: Placed | None, verdict: str, text: str
) -> None:
    watched(witness.observe(reading(), SENT, where), ended(verdict, parting_in(text)))
    assert witness.counts["exact_key_rejected_by_model_lcp"] == 0


def test_a_parting_is_told_of_whatever_the_verdict_is(witness: Witness) -> None:
    through = Witnessed(witness.observe(reading(), SENT, None))
    [_, final] = through.told(ended("evicted(by r1)", parting_in("two")))
    assert isinstance(final, Finished) and final.usage.verdict == "evicted(by r1)"
    assert through.difference is not None and through.difference.message == 2


def test_admission_and_end_are_told_alike(witness: Witness) -> None:
    parting = parting_in("two")
    admitted = Admitted("r", 9, verdict="diverged(token 1)", parting=parting)
    first, _, last = Witnessed(witness.observe(reading(), SENT, None)).told((admitted, *ended("diverged(1)", parting)))
    assert isinstance(first, Admitted) and isinstance(last, Finished) and first.verdict == last.usage.verdict


def test_without_a_witness_events_pass(witness: Witness) -> None:
    events = ended("diverged(token 1)", Parting(1))
    through = Witnessed(None)
    assert through.told(events) is events
    through.ended()


# --- tools ------------------------------------------------------------------------------------------------------


def test_the_tools_of_a_sessions_last_request_are_known_and_others_are_not(witness: Witness) -> None:
    old, new = (tool(0, "read"),), (tool(0, "read"), tool(1, "find"))
    first = witness.observe(reading(talk(LONG, "go", tools=old)), None, placed(0))
    watched(first, ended("first_seen", None))
    later = witness.observe(reading(talk(LONG, "go", tools=new)), None, placed(0))
    assert later.reading.tools_before == old
    assert witness.observe(reading(), None, placed(0, session="x")).reading.tools_before is None
    for number in range(REMEMBERED_SESSIONS):
        watched(witness.observe(reading(), None, placed(0, session=str(number))), ended("first_seen", None))
    assert witness.observe(reading(), None, placed(0)).reading.tools_before is None
