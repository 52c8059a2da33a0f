"""What a model reads where text at the end of a request has gone again, or stands at each end anew."""

from __future__ import annotations

from inference.conversation.binding import bind
from inference.conversation.lineage_memory import proven
from inference.messages import Message
from tests.conversations import system, talk, user
from tests.drift import Client, openclaw_tail, qwen_date, step, texts
from tests.drift_reading import fates, goes_on


def test_a_dropped_date_stays_and_is_told_to_be_gone() -> None:
    minted, *exchange = step()
    client = Client()
    day = qwen_date("Saturday, November 21, 2026")
    client.ask(system("You are."), user("Folders:\nsrc", day, "Prune the pear."))
    client.answered(minted)
    resumed = (system("You are."), user("Folders:\nsrc", "Prune the pear."), *exchange, user("Go on."))
    assert goes_on(client, *resumed)
    assert fates(client) == [("qwen_date_reminder", "retained")]
    assert client.bound is not None
    assert texts(client.bound.conversation)[-1].endswith("Update: the current date above is no longer current.")

    second, *more = step()
    client.answered(second)
    assert goes_on(client, *resumed, *more)
    assert sum("no longer" in text for text in texts(client.bound.conversation)) == 1


def test_vanished_tails_stay_where_they_were_read_up_to_four() -> None:
    client = Client()
    history: list[Message] = [system("You are."), user("Prune the pear.")]
    client.ask(*history, openclaw_tail())
    went_on = []
    for number in range(6):
        minted, *exchange = step()
        client.answered(minted)
        history += exchange
        went_on.append(goes_on(client, *history, openclaw_tail(f"session {number}")))
        assert client.bound is not None
        assert texts(client.bound.conversation)[-1] == openclaw_tail(f"session {number}").text
        assert client.bound.ledger.limit_reached is (number >= 4)
        assert client.bound.ledger.counts["retained"] == min(4, number + 1)
    assert went_on == [True, True, True, True, False, False]


def test_a_tail_that_says_the_same_again_is_read_once_where_it_stands() -> None:
    client = Client()
    history: list[Message] = [system("You are."), user("Prune the pear.")]
    client.ask(*history, openclaw_tail())
    for _ in range(7):
        minted, *exchange = step()
        client.answered(minted)
        history += exchange
        assert goes_on(client, *history, openclaw_tail())
        assert client.bound is not None
        assert texts(client.bound.conversation) == [
            *texts(talk(*history))[:2],
            openclaw_tail().text,
            *texts(talk(*history))[2:],
        ]
        assert fates(client) == [("openclaw_context", "pinned")]
        assert client.bound.ledger.entries[0].path == f"messages[{len(history)}]"


def test_a_tail_does_not_stand_where_thoughts_would_move_with_it() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(user("Prune the pear."), openclaw_tail())
    client.answered(minted)
    sent = talk(user("Prune the pear."), *exchange, openclaw_tail())
    for stands, tails in ((True, 1), (False, 2)):
        bound = bind(sent, proven([client.memory], sent), tail_stands=stands)
        assert texts(bound.conversation).count(openclaw_tail().text) == tails


def test_a_tail_is_read_again_once_something_else_was_read_or_it_was_told_to_be_gone() -> None:
    client = Client()
    history: list[Message] = [system("You are."), user("Prune the pear.")]
    client.ask(*history, openclaw_tail())
    for tail in (openclaw_tail("make"), openclaw_tail(), None, openclaw_tail()):
        minted, *exchange = step()
        client.answered(minted)
        history += [*exchange, user("Go on.")]
        assert goes_on(client, *history, *([] if tail is None else [tail]))
        assert client.bound is not None
        assert tail is None or client.bound.conversation.messages[-1].text == tail.text


def test_a_tail_with_nothing_new_before_it_is_what_is_asked() -> None:
    """Left where it stood, nothing would stand behind the answer. So it does with a client that never takes it back."""
    for kept in ((), (openclaw_tail(),)):
        client = Client()
        history: list[Message] = [system("You are."), user("Prune the pear.")]
        client.ask(*history, openclaw_tail())
        minted, answer, told = step()
        client.answered(minted)
        new = [answer] if not kept else [answer, told]
        client.ask(*history, *kept, *new, openclaw_tail())
        assert client.bound is not None
        assert texts(client.bound.conversation)[-1] == openclaw_tail().text


def test_a_tail_does_not_stand_where_four_that_vanished_stay() -> None:
    """To take it out once it changes would compute all that was said since, and not the last answer alone."""
    client = Client()
    history: list[Message] = [system("You are."), user("Prune the pear.")]
    client.ask(*history, openclaw_tail("0"))
    for number in range(1, 8):
        minted, *exchange = step()
        client.answered(minted)
        history += exchange
        client.ask(*history, openclaw_tail(str(min(number, 4))))
        assert client.bound is not None
        assert texts(client.bound.conversation)[-1] == openclaw_tail(str(min(number, 4))).text


def test_a_tail_does_not_stay_when_the_answer_behind_it_is_not_sent_back() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(system("You are."), user("Prune the pear."))
    client.answered(minted)
    history = (system("You are."), user("Prune the pear."), *exchange)
    client.ask(*history, openclaw_tail())
    client.answered("call_that_was_undone")
    bound = client.ask(*history, user("No, the plum."))
    assert texts(bound.conversation) == [message.text for message in (*history, user("No, the plum."))]


def test_a_tail_that_does_not_come_again_is_told_to_be_gone() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(system("You are."), user("Prune the pear."), openclaw_tail())
    client.answered(minted)
    assert goes_on(client, system("You are."), user("Prune the pear."), *exchange, user("Go on."))
    assert client.bound is not None
    assert texts(client.bound.conversation)[-1].endswith("the internal context above is no longer current.")
