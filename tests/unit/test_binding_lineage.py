"""Which lineage a request proves, and what is kept of it."""

from __future__ import annotations

import pytest

from inference.conversation.binding import bind
from inference.conversation.lineage_memory import FRESH, LineageMemory, proven
from inference.conversation.spans import find
from inference.conversation.volatile_policy import BIND, OMIT, VERBATIM, VolatilePolicy
from tests.conversations import assistant, call, result, talk, user
from tests.drift import Client, dated_system, git_system, step, texts
from tests.drift_reading import fates, goes_on


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
