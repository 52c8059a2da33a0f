"""What a model reads of conversations that drift, in the shapes of real agents."""

from __future__ import annotations

import pytest

from inference.conversation.binding import bind
from inference.conversation.lineage_memory import FRESH, LineageMemory, proven
from inference.conversation.render import render
from inference.conversation.spans import find
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
    qwen_date,
    step,
    texts,
)
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


# --- omit -------------------------------------------------------------------------------------------------------


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


# --- pin --------------------------------------------------------------------------------------------------------


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


# --- rebind -----------------------------------------------------------------------------------------------------


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


# --- what vanishes ----------------------------------------------------------------------------------------------


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


# --- relocate ---------------------------------------------------------------------------------------------------

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


# --- which lineage ----------------------------------------------------------------------------------------------


def test_only_a_call_of_the_lineage_or_its_session_proves_it() -> None:
    minted, *exchange = step()
    request = talk(user("Go"), *exchange)
    assert not proven([LineageMemory()], request).echoed
    assert proven([LineageMemory().answered([minted])], request).echoed
    assert proven([LineageMemory().answered([minted.replace("_", "")])], request).echoed, "without punctuation too"
    assert not proven([LineageMemory().answered([], "s1")], request).echoed
    assert not proven([LineageMemory().answered([], "s1")], request, "s2").echoed
    assert proven([LineageMemory().answered([], "s1")], request, "s1").echoed
    assert proven([], request, "s1") is FRESH


def test_a_counted_call_id_proves_nothing() -> None:
    counted = talk(user("Go"), assistant("", call("functions.a:0")), result("functions.a:0", "x"))
    assert not proven([LineageMemory().answered(["functions.a:0"])], counted).echoed


def test_only_the_last_calls_prove_a_lineage_and_what_nothing_proves_is_not_kept() -> None:
    old, *exchange = step()
    new, *more = step()
    memory = bind(dated := talk(dated_system("2026-11-21"), user("Go"))).memory
    assert find(dated).spans and memory.read and memory.answered([]) is FRESH
    both = memory.answered([old]).answered([new])
    assert not proven([both], talk(user("Go"), *exchange)).echoed
    assert proven([both], talk(user("Go"), *exchange, *more)).echoed
    assert proven([both.answered([])], talk(user("Go"), *exchange, *more)).echoed, "an answer without calls"


@pytest.mark.parametrize("policy", [BIND, OMIT, VERBATIM], ids=lambda policy: policy.name)
def test_the_records_of_a_long_session_share_what_did_not_change(policy: VolatilePolicy) -> None:
    """One for each message, not one for each message of each turn."""
    client, records = Client(session="s", policy=policy), []
    history = [dated_system("2026-11-21"), user("Go")]
    for _ in range(20):
        client.ask(*history)
        minted, *exchange = step()
        records.append(client.answered(minted))
        history += exchange
    assert len({id(seen) for record in records for seen in record.read}) == len(records[-1].read)


def test_a_rule_that_was_refused_at_first_does_not_part_a_lineage() -> None:
    """It took much of the short prompt, and does not of the long one; and the other way round."""
    client = Client()
    status = "\n".join(f" M orchard/row_{number:03d}/tree_with_a_long_name.py" for number in range(80))
    minted, *exchange = step("x" * 60_000)
    client.ask(git_system(status), user("Go"))
    assert client.bound is not None and client.bound.ledger.refused == ("git_status",)
    client.answered(minted)
    assert goes_on(client, git_system(status), user("Go"), *exchange)
    assert fates(client) == [("git_status", "kept")]
    memory = client.answered(minted)
    short = talk(git_system(status), user("Go"), assistant("", call(minted)))
    bound = bind(short, proven([memory], short))
    assert bound.ledger.refused == ("git_status",) and not bound.ledger.entries
    assert texts(bound.conversation)[0] == git_system(status).text, "read once, and not told to be gone"


def test_parts_that_are_rendered_together_stay_together() -> None:
    """A part cut at a span and put together again is tokenised as it was before."""
    conversation = talk(dated_system("2026-11-21"), user("Go"))
    assert find(conversation).spans
    assert bind(conversation).conversation == conversation
