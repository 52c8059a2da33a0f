"""A whole runtime over a model that says what it is told to, and a client that puts its answers together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.events import Channel, Delta, Event, Failed, Finished, ToolCallDelta, Usage
from inference.messages import Conversation, Message, Role, TextPart, ToolCall
from inference.params import GenerationParams, SamplingParams
from inference.ports import Job, ModelLimits
from inference.scheduler import Scheduler
from inference.tokens import TokenIds
from mlxd.runtime import Runtime, ServedModel
from tests.tokenizers_in_code import tokenizer

GREEDY = GenerationParams(SamplingParams(temperature=0.0), max_tokens=40)


async def answer(
    runtime: Runtime, conversation: Conversation, params: GenerationParams = GREEDY, **rest: object
) -> tuple[Message, Usage]:
    """The answer as a client puts it together, and its bill."""
    opened = await runtime.open(
        model=None,
        conversation=conversation,
        params=params,
        client="",
        request_id="r",
        **rest,  # type: ignore[arg-type]
    )
    told: list[Event] = []
    try:
        while True:
            told += await opened.next_batch()
    except StopAsyncIteration:
        pass
    final = told[-1]
    assert isinstance(final, Finished), final.error if isinstance(final, Failed) else final
    return _message(told), final.usage


def _message(told: list[Event]) -> Message:
    said = {Channel.CONTENT: "", Channel.REASONING: ""}
    calls: list[ToolCall] = []
    for event in told:
        if isinstance(event, Delta):
            said[event.channel] += event.text
        elif isinstance(event, ToolCallDelta) and event.id:
            calls.append(ToolCall(event.id, event.name, event.arguments))
        elif isinstance(event, ToolCallDelta):
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + event.arguments)
    text = said[Channel.CONTENT]
    return Message(Role.ASSISTANT, (TextPart(text),) if text else (), said[Channel.REASONING], tuple(calls))


@contextmanager
def served(scheduler: Scheduler, text: TextModel, path: Path) -> Iterator[Runtime]:
    scheduler.start()
    runtime = Runtime((ServedModel("tiny", path, 1),), scheduler, Preparer(), lambda _: text)
    try:
        yield runtime
    finally:
        runtime.close()


LONG = replace(GREEDY, max_tokens=400)
CALL = """<think>
I look.
</think>

Wait.
<tool_call>
{"name": "read_file", "arguments": {"path": "a", "n": 50.0}}
</tool_call>"""


class Model:
    """Says `says`, spelled as its tokenizer never would: one id for each byte, except markers."""

    def __init__(self, text: TextModel) -> None:
        self.text = text
        self.says = "yes"
        self.jobs: list[Job] = []
        limits = ModelLimits(65_536, text.tokenizer.vocab_size, 1_000_000, 1_000)
        self.scheduler = Scheduler(lambda: ScriptedLoader(Script(reply=self.reply, limits=limits)))

    @property
    def ids(self) -> TokenIds:
        own, ids = tokenizer(), []
        for part in own.encode_template(self.says):
            spelled = own.token_bytes(part)
            ids += [part] if part in own.structural_ids else [own.encode_field(chr(byte))[0] for byte in spelled]
        return tuple(ids)

    def reply(self, job: Job, position: int) -> int:
        if position == 0:
            self.jobs.append(job)
        ids = (*self.ids, *self.text.tokenizer.eos_ids)
        return ids[min(position, len(ids) - 1)]

    @property
    def read(self) -> TokenIds:
        return self.jobs[-1].prompt.ids
