"""What hangs where in the tree of turns: one small conversation for each kind of edge."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from inference.conversation.lineage import RESUME_AFTER_S, Lineage
from inference.conversation.turn_chain import Asked, Edge, Placed, Turn

TOOLS = b"tools"


def digests(text: str) -> tuple[bytes, ...]:
    """One digest for each word: `sys hello A1` are three messages."""
    return tuple(hashlib.sha256(word.encode()).digest() for word in text.split())


def asked(text: str, session: str = "", *, tools: bytes = TOOLS, at_s: float = 0.0, one_shot: bool = False) -> Asked:
    heads = 1 if text.startswith("sys") else 0
    return Asked(digests(text), heads, tools, session, bool(session), at_s=at_s, one_shot=one_shot)


def took(lineage: Lineage, text: str, answer: str, session: str = "", **more: object) -> Turn:
    return lineage.commit(lineage.place(asked(text, session, **more)), digests(answer))  # type: ignore[arg-type]


@pytest.fixture
def lineage() -> Lineage:
    return Lineage()


@pytest.fixture
def first(lineage: Lineage) -> Turn:
    return took(lineage, "sys hello", "A1", "s")


def test_the_first_turn_starts_a_line(lineage: Lineage, first: Turn) -> None:
    assert (first.edge, first.parent, first.line, first.known_messages) == (Edge.START, None, first.id, 0)
    assert first.session == "s"
    assert lineage.tip(first.line) == first


def test_an_echoed_answer_extends(lineage: Lineage, first: Turn) -> None:
    second = took(lineage, "sys hello A1 more", "A2", "s")
    assert (second.edge, second.parent, second.line) == (Edge.EXTEND, first.id, first.line)
    assert second.known_messages == 3 and len(second.hashes) == 1
    assert lineage.tip(first.line) == second


def test_without_ids_the_content_finds_the_session(lineage: Lineage) -> None:
    one, other = took(lineage, "sys hello", "A1"), took(lineage, "sys bye", "B1")
    assert one.session != other.session
    assert took(lineage, "sys hello A1 more", "A2").session == one.session
    assert took(lineage, "sys bye B1 more", "B2").session == other.session


def test_two_equal_beginnings_without_ids_are_two_sessions(lineage: Lineage) -> None:
    one, other = took(lineage, "sys hello", "A1"), took(lineage, "sys hello", "B1")
    assert other.edge is Edge.START and one.session != other.session


def test_equal_turns_of_two_sessions_keep_to_their_own(lineage: Lineage) -> None:
    one, other = took(lineage, "sys hello", "A1", "s1"), took(lineage, "sys hello", "A1", "s2")
    for session, parent in (("s1", one), ("s2", other)):
        placed = lineage.place(asked("sys hello A1 more", session))
        assert placed.parent == parent and placed.edge is Edge.EXTEND


def test_a_second_continuation_is_a_branch(lineage: Lineage, first: Turn) -> None:
    second = took(lineage, "sys hello A1 more", "A2", "s")
    fork = took(lineage, "sys hello A1 else", "C1", "s")
    assert (fork.edge, fork.parent, fork.beside, fork.line) == (Edge.BRANCH, first.id, second.id, fork.id)
    assert lineage.tip(first.line) == second


def test_of_two_at_once_only_the_first_done_advances(lineage: Lineage, first: Turn) -> None:
    one, other = (lineage.place(asked(f"sys hello A1 {word}", "s")) for word in ("one", "other"))
    assert one.edge is other.edge is Edge.EXTEND
    done_first, done_second = lineage.commit(other, digests("B")), lineage.commit(one, digests("A"))
    assert (done_first.edge, done_second.edge) == (Edge.EXTEND, Edge.BRANCH)
    assert lineage.tip(first.line) == done_first and lineage.tip(done_second.line) == done_second


def test_an_answer_asked_for_again_is_an_edit(lineage: Lineage, first: Turn) -> None:
    second = took(lineage, "sys hello A1 more", "A2", "s")
    again = took(lineage, "sys hello A1 more", "A2b", "s")
    assert (again.edge, again.parent, again.beside) == (Edge.EDIT, first.id, second.id)
    assert lineage.tip(first.line) == second


def test_a_changed_answer_in_the_history_is_an_edit(lineage: Lineage, first: Turn) -> None:
    second = took(lineage, "sys hello A1 more", "A2", "s")
    edited = took(lineage, "sys hello A1 more A2changed on", "A3", "s")
    assert (edited.edge, edited.parent, edited.beside, edited.known_messages) == (Edge.EDIT, first.id, second.id, 4)


def test_a_changed_beginning_in_one_session_is_an_edit(lineage: Lineage) -> None:
    one = took(lineage, "sys hello u2", "A1", "s")
    edited = took(lineage, "sys hello changed", "B1", "s")
    assert (edited.edge, edited.parent, edited.beside) == (Edge.EDIT, None, one.id)


def test_an_extension_after_a_long_pause_or_under_another_id_resumes(lineage: Lineage, first: Turn) -> None:
    later = lineage.place(asked("sys hello A1 more", "s", at_s=RESUME_AFTER_S + 1))
    renamed = lineage.place(asked("sys hello A1 more", "s-renamed"))
    assert later.edge is renamed.edge is Edge.RESUME
    assert (later.session, renamed.session) == ("s", "s-renamed")
    assert lineage.commit(later, digests("A2")).line == first.line


def test_what_was_restored_is_resumed(lineage: Lineage, first: Turn) -> None:
    reborn = Lineage()
    reborn.restore([first])
    second = reborn.commit(reborn.place(asked("sys hello A1 more", "s")), digests("A2"))
    assert (second.edge, second.parent, second.line) == (Edge.RESUME, first.id, first.line)
    assert reborn.place(asked("sys hello A1 more A2 on", "s")).edge is Edge.EXTEND


def test_a_summary_without_tools_is_a_compaction_and_moves_nothing(lineage: Lineage, first: Turn) -> None:
    summary = took(lineage, "sys hello A1 summarise", "S", "s", tools=b"")
    assert (summary.edge, summary.parent) == (Edge.COMPACTION, first.id)
    assert lineage.place(asked("sys hello A1 more", "s")).edge is Edge.EXTEND


def test_a_shorter_history_under_the_same_head_is_a_compaction(lineage: Lineage, first: Turn) -> None:
    second = took(lineage, "sys hello A1 more", "A2", "s")
    rebuilt = took(lineage, "sys summary", "B1", "s")
    assert (rebuilt.edge, rebuilt.parent, rebuilt.beside) == (Edge.COMPACTION, None, second.id)


def test_a_sub_agent_under_its_orchestrators_id_branches(lineage: Lineage, first: Turn) -> None:
    sub = took(lineage, "sys-of-agent task", "B1", "s", tools=b"fewer")
    assert (sub.edge, sub.parent, sub.beside, sub.session) == (Edge.BRANCH, None, first.id, first.session)
    assert took(lineage, "sys hello A1 more", "A2", "s").line == first.line
    assert took(lineage, "sys-of-agent task B1 on", "B2", "s", tools=b"fewer").line == sub.line


def test_a_title_is_beside_the_conversation_whether_it_comes_first_or_second(lineage: Lineage) -> None:
    title = took(lineage, "title-sys hello", "T", "s", tools=b"", one_shot=True)
    main = took(lineage, "sys hello", "A1", "s")
    late = took(lineage, "title-sys again", "T2", "s", tools=b"", one_shot=True)
    assert (title.edge, title.beside) == (Edge.START, None), "it might have been all there is"
    assert (main.edge, main.beside) == (Edge.START, None)
    assert (late.edge, late.beside) == (Edge.SIDE_CALL, main.id)


def test_an_answer_to_be_continued_is_not_behind_itself(lineage: Lineage, first: Turn) -> None:
    placed = lineage.place(asked("sys hello A1", "s"))
    assert placed.parent is None and placed.edge is Edge.EDIT and placed.known_messages == 3


def test_each_choice_can_be_gone_on_from(lineage: Lineage) -> None:
    several = took(lineage, "sys hello", "A1 A1b A1", "s")
    for choice in ("A1", "A1b"):
        assert lineage.place(asked(f"sys hello {choice} more", "s")).parent == several


def test_owners_never_meet(lineage: Lineage, first: Turn) -> None:
    foreign = lineage.place(replace(asked("sys hello A1 more", "s"), owner="other"))
    assert (foreign.parent, foreign.edge, foreign.known_messages) == (None, Edge.START, 0)


def test_a_name_that_was_only_proposed_is_that_of_a_new_session(lineage: Lineage) -> None:
    """The client is told it, and may send it from then on."""
    first = lineage.commit(lineage.place(Asked(digests("sys hello"), 1, session="told")), digests("A1"))
    again = lineage.place(Asked(digests("sys hello A1 more"), 1, session="told-next"))
    named = lineage.place(Asked(digests("sys hello A1 more"), 1, session="told", named=True))
    assert first.session == again.session == named.session == "told"
    assert again.edge is named.edge is Edge.EXTEND


def test_only_the_newest_turns_are_kept() -> None:
    lineage, text = Lineage(max_turns=3), "sys u0"
    made = []
    for number in range(10):
        made.append(took(lineage, text, f"A{number}", "s"))
        text = f"{text} A{number} u{number + 1}"
    assert len(lineage) == 3 and lineage.turn(made[6].id) is None
    assert lineage.place(asked(text, "s")).parent == made[-1]
    assert {made[9].line} == {turn.line for turn in made}
    for index in (lineage._through, lineage._ends, lineage._tips, lineage._sessions):
        assert len(index) <= 3


def test_placing_changes_nothing(lineage: Lineage, first: Turn) -> None:
    places: list[Placed] = [lineage.place(asked("sys hello A1 more", "s")) for _ in range(3)]
    assert places[0] == places[1] == places[2] and len(lineage) == 1
