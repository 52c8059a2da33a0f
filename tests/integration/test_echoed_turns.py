"""Answers that clients send back, from the runtime to the engine: the next prompt goes on from the very ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference.conversation.preparer import LARGE_BODY_BYTES
from inference.scheduler import Scheduler
from inference.tokens import TokenIds
from mlxd.conversing import Asking
from mlxd.echoes import Echoes
from mlxd.runtime import Runtime
from tests.conversations import READ, assistant, result, system, talk, user
from tests.integration.spoken_runtime import CALL, GREEDY, LONG, Model, answer, served
from tests.tokenizers_in_code import text_model

# --- a model with random weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_models

    return tiny_models.build(tmp_path_factory.mktemp("tiny"), "dense")


@pytest.fixture
def random_model(directory: Path) -> Iterator[Runtime]:
    from inference.engine.loader import MlxLoader
    from inference.engine.settings import EngineSettings
    from inference.engine.text import load_text

    with served(Scheduler(lambda: MlxLoader(EngineSettings())), load_text(directory), directory) as runtime:
        yield runtime


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_second_turn_computes_only_what_is_new(random_model: Runtime, remembers: bool) -> None:
    """What a random model says does not survive being text: of its answer nothing is left to reuse unless its ids
    are kept."""
    messages = [user("Count the house doors in the garden. " * 8)]
    for turn in range(3):
        said, first = await answer(random_model, talk(*messages))
        text = (await random_model.text(random_model.default())).tokenizer
        assert len(text.encode_field(said.text)) != first.completion_tokens, "this answer is no test"
        if not remembers:
            random_model.echoes = Echoes()
        messages += [said, user(f"And behind the house? {turn}")]
        _, second = await answer(random_model, talk(*messages), replace(GREEDY, max_tokens=1))
        known = first.prompt_tokens + first.completion_tokens
        if remembers:
            assert second.cached_tokens >= known - 1  # nobody has computed the last token of an answer yet
        else:
            assert second.cached_tokens < first.prompt_tokens + first.completion_tokens / 2
    assert random_model.echoes.store.counts.get("not_needed", 0) >= (3 if remembers else 0)


# --- a scripted model with a real tokenizer ---------------------------------------------------------------------


@pytest.fixture
def scripted() -> Iterator[tuple[Model, Runtime]]:
    model = Model(text_model("chatml"))
    with served(model.scheduler, model.text, Path("tiny")) as runtime:
        yield model, runtime


@pytest.mark.parametrize("body_bytes", [0, LARGE_BODY_BYTES + 1], ids=["thread", "process"])
async def test_a_tool_loop_goes_on_from_its_own_ids(scripted: tuple[Model, Runtime], body_bytes: int) -> None:
    """The client spells arguments anew, trims the text and drops the thought, as real ones do."""
    model, runtime = scripted
    model.says = CALL
    messages = [system("Be careful."), user("What is in a?")]
    read: TokenIds = ()
    for turn in range(3):
        said, _ = await answer(runtime, talk(*messages, tools=(READ,)), LONG, body_bytes=body_bytes)
        assert model.read[: len(read)] == read
        read = (*model.read, *model.ids)
        compact = json.dumps(json.loads(said.tool_calls[0].arguments), separators=(",", ":"), sort_keys=True)
        echo = assistant(said.text.strip(), replace(said.tool_calls[0], arguments=compact.replace("50.0", "50")))
        messages += [echo, result(said.tool_calls[0].id, f"line {turn}")]
    counts = runtime.echoes.store.counts
    assert counts == {"healed": 1 + 2}
    assert len(runtime.echoes.store) == 3


async def test_sessions_that_say_the_same_go_on_from_their_own_ids(scripted: tuple[Model, Runtime]) -> None:
    model, runtime = scripted
    reads: dict[int, TokenIds] = {}
    talks = {number: [user(f"Question {number}")] for number in range(4)}
    for number, messages in talks.items():
        model.says = "the fox" if number % 2 else "the f<think></think>ox"  # other ids, and the same text
        said, _ = await answer(runtime, talk(*messages), LONG)
        reads[number] = model.ids if number % 2 else ()
        messages += [said, user("And now?")]
    texts = {messages[1].text for messages in talks.values()}
    assert texts == {"the fox"}
    for number, messages in talks.items():
        await answer(runtime, talk(*messages), LONG)
        at = model.jobs[-1].prompt.boundaries[1].token
        own = reads[number]
        assert model.read[at : at + len(own)] == own
        if not own:  # its thought cannot be cut out, and the template wants it out: rendered as sent
            assert model.text.tokenizer.encode_field("the fox") == model.read[at : at + 2]
    assert runtime.echoes.store.counts["unspliced"] == 2


async def test_what_is_only_looked_at_is_not_counted(scripted: tuple[Model, Runtime]) -> None:
    model, runtime = scripted
    model.says = "the f<think></think>ox"  # other ids than its text has, and no place of their own in the render
    said, _ = await answer(runtime, talk(user("a")), LONG)
    (served,), again = runtime.models, talk(user("a"), said, user("b"))
    before = runtime.ledger.view().turns
    asking = Asking(params=LONG, conversation=again, counted=False)
    understood = await runtime.conversing.understand(served.ref, model.text, asking)
    assert understood.found is not None and understood.found.raw and runtime.ledger.view().turns == before
    assert runtime.echoes.store.counts == {}
    await answer(runtime, again, LONG)
    assert runtime.echoes.store.counts["unspliced"] == 1


async def test_requests_with_a_salt_of_their_own_share_no_turns(scripted: tuple[Model, Runtime]) -> None:
    model, runtime = scripted
    model.says = "the quick fox"
    said, _ = await answer(runtime, talk(user("a")), LONG, salt=b"one")
    await answer(runtime, talk(user("a"), said, user("b")), LONG, salt=b"two")
    assert runtime.echoes.store.counts == {"not_found": 1}
    await answer(runtime, talk(user("a"), said, user("b")), LONG, salt=b"one")
    assert runtime.echoes.store.counts == {"not_found": 1, "not_needed": 1}


async def test_what_goes_on_from_a_clients_text_is_no_turn(scripted: tuple[Model, Runtime]) -> None:
    model, runtime = scripted
    model.says = " fox"
    await answer(runtime, replace(talk(user("a"), assistant("the quick")), continue_final=True), LONG)
    assert len(runtime.echoes.store) == 0
