"""What a model reads of conversations that drift, in the shapes of real agents."""

from __future__ import annotations

import pytest

from inference.conversation.binding import bind
from inference.conversation.volatile_policy import BIND, OMIT, VERBATIM, VolatilePolicy
from inference.messages import Message, Role
from tests.conversations import assistant, call, result, system, talk, user
from tests.drift import (
    Client,
    billing,
    channel_message,
    dated_system,
    git_system,
    instructions,
    openclaw_tail,
    step,
    texts,
)
from tests.drift_reading import fates, goes_on

# --- omit -------------------------------------------------------------------------------------------------------------


def test_telemetry_is_left_out_and_listed() -> None:
    bound = bind(talk(instructions(billing("39c"), "You are."), user("Hi")), policy=OMIT)
    assert texts(bound.conversation) == ["You are.", "Hi"]
    (entry,) = bound.ledger.entries
    assert (entry.rule, entry.fate, entry.read) == ("claude_billing_header", "omitted", "")
    assert entry.sent == billing("39c")
    assert entry.path == "messages[0].content[0].text"


def test_a_message_of_telemetry_alone_is_not_read_and_the_others_keep_their_origin() -> None:
    bound = bind(talk(system(billing("39c")), system("You are."), user("Hi")), policy=OMIT)
    assert texts(bound.conversation) == ["You are.", "Hi"]
    assert bound.origin == (1, 2)
    assert bound.renumbered({0: "a", 2: "c"}) == {1: "c"}


def test_verbatim_renders_everything_as_it_was_sent() -> None:
    conversation = talk(instructions(billing("39c"), "You are."), user("Hi"), openclaw_tail())
    bound = bind(conversation, policy=VERBATIM)
    assert bound.conversation == conversation
    assert {entry.fate for entry in bound.ledger.entries} == {"kept"}
    assert bound.ledger.policy == "verbatim"


def test_a_refused_rule_is_not_applied() -> None:
    status = "\n".join(f" M orchard/row_{number:03d}/tree_with_a_long_name.py" for number in range(80))
    minted, *exchange = step()
    client = Client()
    client.ask(git_system(status), user("Go"))
    client.answered(minted)
    bound = client.ask(git_system(status + "\n M more.py"), user("Go"), *exchange)
    assert bound.ledger.refused == ("git_status",)
    assert texts(bound.conversation)[0] == git_system(status + "\n M more.py").text


# --- pin --------------------------------------------------------------------------------------------------------------


def test_an_identifier_is_read_as_first_seen() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(channel_message("a-1", "Prune the pear."))
    client.answered(minted)
    assert goes_on(client, channel_message("b-2", "Prune the pear."), *exchange)
    assert fates(client) == [("message_id_field", "pinned")]


def test_a_new_message_keeps_its_own_identifier() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(channel_message("a-1", "Prune the pear."))
    client.answered(minted)
    client.ask(channel_message("b-2", "Prune the pear."), *exchange, channel_message("c-3", "Prune the pear."))
    assert fates(client) == [("message_id_field", "pinned"), ("message_id_field", "kept")]


def test_another_session_never_pins() -> None:
    one, other = Client(), Client()
    one.ask(channel_message("a-1", "Prune the pear."))
    one.answered("call_of_the_first")
    answer = assistant("", call("call_of_another"))
    bound = other.ask(
        channel_message("b-2", "Prune the pear."), answer, result("call_of_another", "x"), candidates=[one.memory]
    )
    assert "a-1" not in "".join(texts(bound.conversation))


# --- rebind -----------------------------------------------------------------------------------------------------------


def test_a_new_day_is_stated_in_the_newest_user_message() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(dated_system("2026-11-21"), user("Prune the pear."))
    client.answered(minted)
    history = (user("Prune the pear."), *exchange, user("And the plum."))
    assert goes_on(client, dated_system("2026-11-22"), *history)
    assert client.bound is not None
    *_, last = texts(client.bound.conversation)
    assert last == 'And the plum.\n\nUpdate: "Current date: 2026-11-21" is replaced by "Current date: 2026-11-22"'
    assert fates(client) == [("current_date", "restated")]

    second, *more = step()
    client.answered(second)
    assert goes_on(client, dated_system("2026-11-22"), *history, *more), "it is told once, and stays where it was told"
    assert client.bound is not None
    assert sum("Update:" in text for text in texts(client.bound.conversation)) == 1
    assert fates(client) == [("current_date", "restated")]


def test_in_a_tool_loop_it_is_a_message_of_its_own_and_never_in_a_result() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(dated_system("2026-11-21"), user("Prune the pear."))
    client.answered(minted)
    assert goes_on(client, dated_system("2026-11-22"), user("Prune the pear."), *exchange)
    assert client.bound is not None
    *before, last = client.bound.conversation.messages
    assert last.role is Role.SYSTEM
    assert "2026-11-22" in last.text
    assert all("Update:" not in message.text for message in before)
    assert client.bound.origin[-1] is None

    second, *more = step()
    client.answered(second)
    assert goes_on(client, dated_system("2026-11-22"), user("Prune the pear."), *exchange, *more)


def test_a_day_that_changes_back_is_stated_again() -> None:
    client = Client()
    history: list[Message] = [user("Prune the pear.")]
    client.ask(dated_system("2026-11-21"), *history)
    for day, stated in (("2026-11-22", 1), ("2026-11-21", 2), ("2026-11-21", 2)):
        minted, *exchange = step()
        client.answered(minted)
        history += [*exchange, user("Go on.")]
        assert goes_on(client, dated_system(day), *history)
        assert client.bound is not None
        assert sum("Update:" in text for text in texts(client.bound.conversation)) == stated


def test_without_a_place_everything_is_read_as_sent() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(dated_system("2026-11-21"), user("Prune the pear."))
    client.answered(minted)
    bound = client.ask(dated_system("2026-11-22"), user("Prune the pear."), exchange[0])
    assert "2026-11-21" not in "".join(texts(bound.conversation))
    assert fates(client) == [("current_date", "kept")]


@pytest.mark.parametrize("echo", ["nothing", "another call", "an edited history"])
def test_without_an_echo_of_this_lineage_everything_is_read_as_sent(echo: str) -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(dated_system("2026-11-21"), user("Prune the pear."))
    client.answered(minted)
    request = {
        "nothing": [user("Prune the pear.")],
        "another call": [user("Prune the pear."), *step()[1:]],
        "an edited history": [user("Prune the plum."), *exchange],
    }[echo]
    bound = client.ask(dated_system("2026-11-22"), *request)
    assert texts(bound.conversation) == [message.text for message in (dated_system("2026-11-22"), *request)]
    assert fates(client) == [("current_date", "kept")]


def test_context_that_is_not_safe_is_read_as_sent() -> None:
    def reminder(status: str) -> Message:
        return user(
            f"<system-reminder>\n# gitStatus\nCurrent branch: main\nStatus:\n{status}\n</system-reminder>", "Go"
        )

    minted, *exchange = step()
    client = Client()
    client.ask(reminder("(clean)"))
    client.answered(minted)
    bound = client.ask(reminder(" M pear.py"), *exchange)
    assert texts(bound.conversation)[0] == reminder(" M pear.py").text


def test_a_git_status_is_told_anew_by_its_name() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(git_system("(clean)"), user("Prune the pear."))
    client.answered(minted)
    assert goes_on(client, git_system(" M pear.py"), user("Prune the pear."), *exchange, user("And the plum."))
    assert client.bound is not None
    last = texts(client.bound.conversation)[-1]
    assert "Update: the git status above is replaced by this:\ngitStatus:" in last
    assert " M pear.py" in last


def test_a_time_of_day_is_bound_only_on_request() -> None:
    def timed(time: str) -> Message:
        return system(f"You are.\nCurrent time is {time}.\nBe brief.")

    for policy, kept in (
        (BIND, False),
        (VolatilePolicy("timed", rebind=True, also_rebind=frozenset({"current_time"})), True),
    ):
        minted, *exchange = step()
        client = Client(policy=policy)
        client.ask(timed("14:05"), user("Prune the pear."))
        client.answered(minted)
        assert goes_on(client, timed("14:06"), user("Prune the pear."), *exchange) is kept


# --- relocate ---------------------------------------------------------------------------------------------------------

RELOCATING = VolatilePolicy("relocate", True, True, True, relocate=frozenset({"git_status", "current_date"}))


def test_a_relocated_span_leaves_the_same_prefix_to_all_sessions() -> None:
    rest = "word " * 400
    heads = []
    for status in ("(clean)", " M pear.py"):
        client = Client(policy=RELOCATING)
        sent = Message(Role.SYSTEM, (*git_system(status).parts, *user(rest).parts))
        bound = client.ask(sent, user("Prune the pear."))
        assert status in texts(bound.conversation)[-1]
        assert fates(client) == [("git_status", "relocated")]
        heads.append(texts(bound.conversation)[0])
        minted, *exchange = step()
        client.answered(minted)
        assert goes_on(client, sent, user("Prune the pear."), *exchange)
        assert fates(client) == [("git_status", "relocated")]
    assert heads[0] == heads[1]


def test_a_span_with_little_behind_it_is_not_relocated() -> None:
    bound = Client(policy=RELOCATING).ask(git_system("(clean)"), user("Prune the pear."))
    assert [entry.fate for entry in bound.ledger.entries] == ["kept"]
