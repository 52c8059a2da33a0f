"""Laws of tools that stay in a prompt: they are of the lineage, accounted for, and never there without leave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from inference.conversation.lineage_memory import FRESH, LineageMemory
from inference.messages import Conversation, Tool
from inference.params import GenerationParams
from inference.ports import ModelRef
from mlxd import conversing as room
from mlxd.conversing import Asking, Understood
from mlxd.kept_tools import REMEMBERED, RULE, GivenTools, with_tools
from mlxd.ledger.recorded import Recorded
from tests.property.test_conversing_laws import MODEL, Agent, Answering, Watched, World, nothing_lost

slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
REF = ModelRef("m", Path("m"))


@pytest.fixture(scope="module")
def preparer() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.close()


async def serve(world: World, agent: Agent, sent: Conversation, owner: str, *, keep: bool) -> Understood:
    asking = Asking(params=GenerationParams(), conversation=sent, client=owner, session=agent.session, keep_tools=keep)
    understood = await world.conversing.understand(REF, MODEL, asking)
    async for _ in Recorded(Answering(agent.answered()), understood.known, world.ledger):
        pass
    return understood


def any_agents(preparer: Watched, data: st.DataObject) -> None:
    """Agents that say the same, of two owners, each with a tool of its own, called and sent without tools by turns."""
    agents = [Agent(f"mark{number}", data.draw(st.sampled_from(["", f"s{number}"]))) for number in range(3)]
    tools = {one.mark: (Tool(f"find_{one.mark}", "Finds."),) for one in agents}
    owners = {one.mark: data.draw(st.sampled_from(["ada", "bob"])) for one in agents}
    began: set[str] = set()

    async def play() -> None:
        world = World(preparer)
        for _ in range(data.draw(st.integers(4, 10))):
            agent = data.draw(st.sampled_from(agents))
            without, keep = agent.mark in began and data.draw(st.booleans()), data.draw(st.booleans())
            sent = replace(agent.asks(0, 0, tail=False), tools=() if without else tools[agent.mark])
            understood = await serve(world, agent, sent, owners[agent.mark], keep=keep)
            read = preparer.last.conversation.tools
            spans = understood.known.spans
            assert spans is not None
            named = [entry.read for entry in spans.entries if entry.rule == RULE]
            if without and keep:
                assert read in ((), tools[agent.mark]) and named == [tool.name for tool in read]
            else:
                assert read == sent.tools and not named
            assert understood.kept_tools == bool(named)
            nothing_lost(understood, sent)
            began.add(agent.mark)

    asyncio.run(play())


@slow
@given(data=st.data())
def test_tools_that_stay_are_those_of_the_lineage(preparer: Watched, data: st.DataObject) -> None:
    any_agents(preparer, data)


def trusting(candidates: tuple[LineageMemory, ...], _conversation: Conversation, _session: str) -> LineageMemory:
    """The fault: who comes behind a turn of equal words is taken for its own."""
    return replace(candidates[-1], echoed=True) if candidates else FRESH


def mixed_up(self: GivenTools, _owner: str, _digest: bytes) -> tuple[Tool, ...]:
    """The fault: whatever was given last."""
    return next(reversed(self._lists.values()), ())


def test_the_law_finds_tools_of_others(preparer: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "proven", trusting)
    monkeypatch.setattr(GivenTools, "of", mixed_up)
    often = settings(slow, max_examples=200, database=None, phases=(Phase.generate,))
    with pytest.raises(AssertionError):
        often(given(data=st.data())(lambda data: any_agents(preparer, data)))()


def test_a_lineage_keeps_its_tools_from_turn_to_turn(preparer: Watched) -> None:
    async def play() -> list[tuple[Tool, ...]]:
        world, agent = World(preparer), Agent("mark", "")
        read: list[tuple[Tool, ...]] = []
        tools = (Tool("find", "Finds."),)
        for sent in (tools, (), (), ()):
            await serve(world, agent, replace(agent.asks(0, 0, tail=False), tools=sent), "ada", keep=len(read) != 3)
            read.append(preparer.last.conversation.tools)
        return read

    first, second, third, unasked = asyncio.run(play())
    assert first == second == third and not unasked


def test_few_lists_are_remembered_and_each_owner_has_its_own() -> None:
    given_tools = GivenTools()
    for number in range(REMEMBERED + 1):
        given_tools.keep("ada", bytes([number]), (Tool(f"t{number}"),))
    assert given_tools.of("ada", b"\x00") == () == given_tools.of("bob", b"\x01")
    assert given_tools.of("ada", b"\x01") == (Tool("t1"),)
    given_tools.forget()
    assert not given_tools.of("ada", b"\x01")


def test_a_tool_that_is_said_to_be_kept_must_be_there(preparer: Watched) -> None:
    """The independent checker looks for its name."""

    async def play() -> tuple[Understood, Conversation]:
        world, agent = World(preparer), Agent("mark", "")
        sent = agent.asks(0, 0, tail=False)
        return await serve(world, agent, sent, "ada", keep=True), sent

    understood, sent = asyncio.run(play())
    assert understood.known.spans is not None
    claimed = replace(understood.known, spans=with_tools(understood.known.spans, (Tool("never_shown"),)))
    with pytest.raises(AssertionError):
        nothing_lost(replace(understood, known=claimed), sent)
