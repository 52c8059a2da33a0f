"""Every rule: a pair that it makes equal, and near-misses that it must not touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from inference.conversation.meaning import meaning_of
from inference.conversation.spans import Found, find, fragments
from inference.conversation.volatile import RULES, Unit, VolatileRule
from inference.messages import Conversation, Message, Role
from tests.conversations import assistant, call, result, system, talk, user
from tests.drift import billing, channel_message, dated_system, git_system, instructions, openclaw_tail, qwen_date

HELLO = user("Hello there")


@dataclass(frozen=True)
class Case:
    """`pair` differs in what the rule is about and in nothing else."""

    pair: tuple[Conversation, Conversation]
    near_misses: tuple[Conversation, ...]


def _system(text: str) -> Conversation:
    return talk(system(f"You are an agent.\n{text}\nBe brief."), HELLO)


def _wrapped(text: str) -> Conversation:
    return talk(system("You are an agent."), user(f"<system-reminder>\n{text}\n</system-reminder>", "Hello"))


def _elsewhere(line: str) -> tuple[Conversation, ...]:
    """The same line where nobody but the user, the model or a tool can have put it, and inside of other text."""
    return (
        talk(system("You are an agent."), user(f"What does this mean?\n{line}\nTell me.")),
        talk(HELLO, assistant(f"The file says:\n{line}\nThat is all.")),
        talk(HELLO, assistant("", call("call_one")), result("call_one", f"first\n{line}\nlast")),
        _system(f"Never write {line} into a file."),
        _system(f"{line} and more"),
    )


def _git(text: Callable[[str], Message]) -> tuple[Conversation, Conversation]:
    return talk(text("(clean)"), HELLO), talk(text(' M pear.py\n?? "plum_\\303\\251.txt"'), HELLO)


def _git_reminder(status: str) -> Message:
    return user(
        f"<system-reminder>\n# gitStatus\nAs it was.\n\nCurrent branch: main\n\nStatus:\n{status}\n</system-reminder>"
    )


def _inbound(channel: str) -> str:
    return (
        f'## Inbound Context (trusted metadata)\nMade by the client.\n\n```json\n{{\n  "channel": "{channel}"\n}}\n```'
    )


def _report(stats: str) -> Conversation:
    return talk(user(f"[Internal task completion event]\ntask: prune\n\nDone.\n\n{stats}\n\nGo on."))


CASES = {
    "openclaw_context": Case(
        (talk(HELLO, openclaw_tail()), talk(HELLO, openclaw_tail("one: make"))),
        (
            talk(HELLO, user(f"{openclaw_tail().text} what is this?")),
            talk(HELLO, user(openclaw_tail().text.removesuffix(">>>"))),
            talk(HELLO, user(openclaw_tail().text + openclaw_tail().text)),
            talk(HELLO, system(openclaw_tail().text)),
            talk(HELLO, assistant("", call("call_one")), result("call_one", openclaw_tail().text)),
        ),
    ),
    "qwen_date_reminder": Case(
        (
            talk(user(qwen_date("Saturday, November 21, 2026"), "Hello")),
            talk(user(qwen_date("Sunday, November 22, 2026"), "Hello")),
        ),
        (
            talk(user(qwen_date("soon"), "Hello")),
            talk(user(qwen_date("Saturday, November 21, 2026, 7 PM"), "Hello")),
            talk(user(qwen_date("Saturday, November 21, 2026") + "\nHello")),
            talk(user("<system-reminder>\nThe plan is: Saturday, November 21, 2026.\n</system-reminder>")),
        ),
    ),
    "claude_billing_header": Case(
        (
            talk(instructions(billing("39c"), "You are."), HELLO),
            talk(instructions(billing("ae0"), "You are."), HELLO),
        ),
        (
            *_elsewhere(billing("39c")),
            talk(HELLO, system(billing("39c"))),
            _system("x-anthropic-billing-header: see the manual; it is secret."),
        ),
    ),
    "cch": Case(
        (_system("cch=0af31;"), _system("cch=99e2c;")),
        (
            *_elsewhere("cch=0af31;"),
            _system("cch=hello;"),
            _system("cch=0af31; keep"),
            talk(HELLO, system("cch=0af31;")),
        ),
    ),
    "runtime_stats": Case(
        (_report("Stats: runtime 1m40s • tokens 50.3k (in 24.0k / out 797)"), _report("Stats: runtime n/a")),
        (
            *_elsewhere("Stats: runtime 1m40s"),
            _report("Stats: runtime 5s • sessionKey agent:main:sub:1"),
            _report("Stats: runtime 5s • transcript /srv/orchard/log"),
            _report("Stats: runtime was long"),
        ),
    ),
    "message_id_tag": Case(
        (talk(user("Prune it.\n[message_id: 41]")), talk(user("Prune it.\n[message_id: 97]"))),
        (
            talk(user("Is [message_id: 41] a tag?")),
            talk(user("[message_id: 41]\nPrune it.")),
            talk(user("Prune it.\n[message_id: 41] now")),
            talk(HELLO, assistant("Done.\n[message_id: 41]")),
            talk(HELLO, assistant("", call("call_one")), result("call_one", "mail\n[message_id: 41]")),
        ),
    ),
    "message_id_field": Case(
        (talk(channel_message("a-1", "Prune it.")), talk(channel_message("b-2", "Prune it."))),
        (
            talk(user('My file:\n```json\n{\n  "message_id": "a-1"\n}\n```\nChange it.')),
            talk(user(f'{channel_message("a-1", "x").text.partition("```json")[0]}\n"message_id": "a-1",')),
            talk(HELLO, assistant("", call("call_one")), result("call_one", channel_message("a-1", "x").text)),
        ),
    ),
    "todays_date": Case(
        (_system("Today's date is 2026-11-21."), _system("Today's date is 2026-11-22.")),
        (
            *_elsewhere("Today's date is 2026-11-21."),
            _system("Today's date is 2026-11-21 14:05."),
            _system("Today's date is 2026-11-21 and the deadline is 2026-12-01."),
            _system("Today's date is a secret."),
        ),
    ),
    "current_date": Case(
        (talk(dated_system("2026-11-21"), HELLO), talk(dated_system("2026-11-22"), HELLO)),
        (
            *_elsewhere("Current date: 2026-11-21"),
            talk(dated_system("2026-11-21T14:05:00"), HELLO),
            talk(dated_system("2026-11-21, release day"), HELLO),
        ),
    ),
    "codex_date": Case(
        (
            talk(user("<environment_context>\n  <current_date>2026-11-21</current_date>\n</environment_context>")),
            talk(user("<environment_context>\n  <current_date>2026-11-22</current_date>\n</environment_context>")),
        ),
        (*_elsewhere("<current_date>2026-11-21</current_date>"), _system("<current_date>today</current_date>")),
    ),
    "current_time": Case(
        (_system("Current time is 14:05."), _system("Current time is Sat 2026-11-21 15:06 UTC.")),
        (*_elsewhere("Current time is 14:05."), _system("For the current time: ask at 14:05.")),
    ),
    "git_status": Case(
        _git(git_system),
        (
            _system("# gitStatus\nis a word.\nIt is two sentences.\nCurrent branch: main"),
            _system("See gitStatus: below\nCurrent branch: main"),
            talk(HELLO, git_system("(clean)")),
            talk(HELLO, assistant("", call("call_one")), result("call_one", git_system("(clean)").text)),
        ),
    ),
    "git_status_reminder": Case(
        _git(_git_reminder),
        (talk(user(_git_reminder("(clean)").text.partition("\n")[2])), _wrapped("# gitStatus\nNothing here.")),
    ),
    "inbound_context": Case(
        (_system(_inbound("mail")), _system(_inbound("pigeon"))),
        (
            _system(_inbound("mail").removesuffix("```")),
            _system("Read ## Inbound Context (trusted metadata)\n```json\n{}\n```"),
            talk(user(_inbound("mail"))),
        ),
    ),
}


def _names(found: Found) -> set[str]:
    return {span.rule.name for span in found.spans}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_a_rule_makes_its_pair_equal_and_needs_to(name: str) -> None:
    one, other = CASES[name].pair
    rest = [rule for rule in RULES if rule.name != name]
    assert _names(find(one)) == _names(find(other)) == {name}
    assert meaning_of(one).digests == meaning_of(other).digests
    assert meaning_of(one, rules=rest).digests != meaning_of(other, rules=rest).digests


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, case in CASES.items() for number in range(len(case.near_misses))]
)
def test_a_rule_leaves_its_near_misses_alone(name: str, number: int) -> None:
    assert name not in _names(find(CASES[name].near_misses[number]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_taking_a_span_out_takes_nothing_else(rule: VolatileRule) -> None:
    for conversation in CASES[rule.name].pair:
        found = find(conversation)
        for message, spans in zip(conversation.messages, found.by_message(len(conversation.messages)), strict=True):
            if rule.scope.unit is not Unit.MESSAGE:
                assert "".join(one.text for one in fragments(message, spans)) == message.text
            for span in spans:
                assert span.whole or message.parts[span.part].text[span.start : span.stop] == span.text


def test_a_git_status_ends_with_the_last_line_of_git() -> None:
    (span,) = find(talk(git_system(" M pear.py"), HELLO)).spans
    assert span.text.startswith("gitStatus:")
    assert span.text.endswith("4e9e124 plant a tree\n")


def test_a_git_status_takes_no_prose_behind_a_blank_line() -> None:
    text = "# gitStatus\nCurrent branch: main\n\nStatus:\n M pear.py\n\nA rule for you: be kind."
    (span,) = find(talk(system(text), HELLO)).spans
    assert span.text.endswith(" M pear.py\n")


@pytest.mark.parametrize(("lines", "refused"), [(60, True), (20, False)])
def test_a_rule_that_takes_too_much_is_refused(lines: int, refused: bool) -> None:
    """2,000 characters and a tenth of the prompt: with either alone it still applies."""
    status = "\n".join(f" M orchard/row_{number:02d}/tree_with_a_long_name.py" for number in range(lines))
    found = find(talk(git_system(status), HELLO))
    assert (found.refused, _names(found)) == ((("git_status",), set()) if refused else ((), {"git_status"}))
    roomy = find(talk(git_system(status), user("word " * 20_000)))
    assert not roomy.refused


def test_a_whole_message_is_exempt_from_the_guard() -> None:
    found = find(talk(HELLO, openclaw_tail("busy " * 1000)))
    assert not found.refused
    assert _names(found) == {"openclaw_context"}


def test_assistants_and_tools_are_never_searched() -> None:
    for case in CASES.values():
        for conversation in case.pair:
            for role in (Role.ASSISTANT, Role.TOOL):
                moved = [Message(role, message.parts, tool_call_id="call_one") for message in conversation.messages]
                assert not find(Conversation(tuple(moved))).spans
