"""Which model a request means, over a real scheduler with scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import ScriptedLoader
from inference.errors import InvalidModel, ModelNotFound, PromptTooLong
from inference.params import GenerationParams
from inference.scheduler import Scheduler
from mlxd.runtime import Runtime, ServedModel
from tests.scripted import ByteTokenizer

A, B = (ServedModel(name, Path(name), 1) for name in ("a", "org/b"))


class Reader:
    """Stands where a model's tokenizer is read: fails first, if told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.reads = 0

    def __call__(self, path: Path) -> TextModel:
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise InvalidModel("scripted: tokenizer.json is missing")
        return TextModel(ByteTokenizer(), None, context_tokens=1000)


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(ScriptedLoader)
    scheduler.start()
    yield scheduler
    scheduler.stop()


def served(scheduler: Scheduler, *models: ServedModel, strict: bool = False, reader: Reader | None = None) -> Runtime:
    return Runtime(models, scheduler, Preparer(), reader or Reader(), strict_models=strict)


@pytest.mark.parametrize("name", [None, "default", "current-model", "a", "gpt-4o", "openai/whatever", "x/a"])
def test_one_model_answers_to_every_name(scheduler: Scheduler, name: str | None) -> None:
    assert served(scheduler, A).resolve(name) is A


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/passwd", "a b", "x" * 10_000, "a\0", "a//b", "a/../b"])
def test_what_is_no_name_is_nobody(scheduler: Scheduler, name: str) -> None:
    with pytest.raises(ModelNotFound) as refusal:
        served(scheduler, A).resolve(name)
    assert refusal.value.param == "model"
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(("models", "strict"), [((A, B), False), ((A,), True)])
def test_an_unknown_name_is_refused_with_the_list(
    scheduler: Scheduler, models: tuple[ServedModel, ...], strict: bool
) -> None:
    with pytest.raises(ModelNotFound, match="no model 'gpt-4o' here"):
        served(scheduler, *models, strict=strict).resolve("gpt-4o")


def test_ids_and_last_parts(scheduler: Scheduler) -> None:
    runtime = served(scheduler, A, B)
    assert [runtime.resolve(name) for name in ("org/b", "anything/a")] == [B, A]


def test_no_model_at_all(scheduler: Scheduler) -> None:
    with pytest.raises(ModelNotFound, match="--demo"):
        served(scheduler).resolve(None)


async def test_a_request_that_names_nobody_goes_to_the_model_in_memory(scheduler: Scheduler) -> None:
    runtime = served(scheduler, A, B)
    assert runtime.resolve(None) is A
    for model in (B, A):
        await asyncio.wrap_future(scheduler.load(model.ref))
        async with asyncio.timeout(60):  # the view follows within a tenth of a second
            while runtime.resolve("default") is not model:
                await asyncio.sleep(0.01)


async def test_the_tokenizer_is_read_once_and_again_after_a_failure(scheduler: Scheduler) -> None:
    reader = Reader(failures=1)
    runtime = served(scheduler, A, reader=reader)
    with pytest.raises(InvalidModel):
        await runtime.text(A)
    await asyncio.gather(runtime.text(A), runtime.text(A))
    assert reader.reads == 2


@pytest.mark.parametrize(("limit", "context"), [(0, 1000), (50, 50), (5000, 1000)])
async def test_the_configured_limit_lowers_the_context(scheduler: Scheduler, limit: int, context: int) -> None:
    runtime = served(scheduler, A)
    runtime.max_context_tokens = limit
    assert (await runtime.text(A)).context_tokens == context
    with pytest.raises(PromptTooLong) as refusal:
        await runtime.open(model=None, raw_prompt="x" * context, params=GenerationParams(), client="", request_id="r")
    assert refusal.value.context_tokens == context


async def test_a_generation_from_end_to_end(scheduler: Scheduler) -> None:
    runtime = served(scheduler, A)
    generation = await runtime.open(
        model="a", raw_prompt="hello", params=GenerationParams(max_tokens=3), client="", request_id="r", body_bytes=5
    )
    events = [event async for batch in generation for event in batch]
    assert (generation.model_id, generation.max_tokens, type(events[-1]).__name__) == ("a", 3, "Finished")
    assert runtime.snapshot().scheduler.counters.finished == 1
