"""A process for prompts that are large or not to be trusted; `main` is called with the number of an inherited socket.

It speaks pickle over one inherited socket, with its own parent only, and ends when that socket ends. Its tokenizer
cache stays warm between requests. It imports neither MLX nor a web framework.
"""

from __future__ import annotations

import gc
import os
import resource
import struct
import sys
import traceback
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from inference.conversation.allowance import PLENTY, allowing
from inference.conversation.render import Rendered, render_raw, render_with_notes
from inference.conversation.spoken import RawTurn
from inference.conversation.template import showing
from inference.conversation.text_model import TextModel
from inference.errors import EngineError, InferenceError
from inference.messages import Conversation
from inference.tokens import Boundary, Prompt, SourceMap, Span

Loader = Callable[[Path], TextModel]
RawPrompt = str | tuple[int, ...]
MAX_MODELS = 4
ID_BYTES = array("I").itemsize


@dataclass(frozen=True, slots=True)
class Echoed:
    """A conversation with the ids of those of its assistant messages that are read as the model spoke them.

    `at_s` is the Unix time that the template's clock shows; 0.0: the present.
    """

    conversation: Conversation
    raw: Mapping[int, RawTurn] = field(default_factory=dict)  # not a view: those cannot be pickled
    at_s: float = 0.0


Job = Conversation | Echoed | RawPrompt


@dataclass(frozen=True, slots=True)
class Room:
    """What one job may use: bytes beside those the process has, and processor seconds for each render."""

    nbytes: int
    processor_s: float


@dataclass(frozen=True, slots=True)
class Order:
    """One prompt to prepare. The model's text side travels with the first order for it (`model` None: as before).

    `job` None: the model is only to be kept. `room` None: the process is bounded by nothing but its deadline.
    """

    key: str
    model: TextModel | None
    job: Job | None
    room: Room | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The process does not hold this model (it was restarted, or made room): send it along."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The process holds this model now."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A `Rendered` as it crosses the process border: ids as four bytes each, spans as plain tuples."""

    ids: bytes
    boundaries: Sequence[tuple[int, int]]
    spans: Sequence[tuple[int, int, str]]
    header: int | None
    opener_tokens: int
    last_user_message: int | None
    adaptations: Mapping[str, int]

    @classmethod
    def of(cls, rendered: Rendered) -> Packed:
        prompt = rendered.prompt
        return cls(
            array("I", prompt.ids).tobytes(),
            [(one.message, one.token) for one in prompt.boundaries],
            [(one.start, one.stop, one.path) for one in prompt.source.spans],
            prompt.header,
            prompt.opener_tokens,
            prompt.last_user_message,
            dict(rendered.adaptations),
        )

    def unpacked(self) -> Rendered:
        ids = struct.unpack(f"{len(self.ids) // ID_BYTES}I", self.ids)
        boundaries = tuple(Boundary(*one) for one in self.boundaries)
        source = SourceMap(tuple(Span(*one) for one in self.spans))
        prompt = Prompt(ids, boundaries, source, self.header, self.opener_tokens, self.last_user_message)
        return Rendered(prompt, self.adaptations)


Answer = Packed | Unknown | Kept | InferenceError


def prepare_now(model: TextModel, job: Job) -> Rendered:
    """A conversation or a raw prompt, rendered here and now."""
    match job:
        case Conversation():
            return render_with_notes(model, job)
        case Echoed(conversation, raw, at_s):
            return render_with_notes(replace(model, template=showing(model.template, at_s)), conversation, raw)
        case _:
            return Rendered(render_raw(model, job), {})


def serve(connection: Connection) -> None:
    """Answers orders until the parent is gone."""
    models: OrderedDict[str, TextModel] = OrderedDict()
    while True:
        try:
            connection.send(_next_answer(connection, models))
        except (EOFError, OSError):
            return


def _next_answer(connection: Connection, models: OrderedDict[str, TextModel]) -> Answer:
    try:
        # A model's files are read while its order is unpacked, so this can fail as loading does.
        return _answer(connection.recv(), models)
    except InferenceError as error:
        return error
    except (EOFError, OSError):
        raise
    except Exception:  # a fault of ours: told in full to the log, in short to the client
        traceback.print_exc()
        return EngineError("The process that prepares prompts failed.")


def _answer(order: Order, models: OrderedDict[str, TextModel]) -> Answer:
    if order.model is not None:
        models[order.key] = order.model
        gc.freeze()
    model = models.get(order.key)
    if model is None:
        return Unknown()
    models.move_to_end(order.key)
    if len(models) > MAX_MODELS:
        models.popitem(last=False)
        gc.unfreeze()  # templates and their environments hold each other
        gc.collect()
        gc.freeze()
    if order.job is None:
        return Kept()
    if order.room is None:
        return Packed.of(prepare_now(model, order.job))
    with allowing(replace(PLENTY, processor_s=order.room.processor_s)), confined_to(order.room.nbytes):
        return Packed.of(prepare_now(model, order.job))


@contextmanager
def confined_to(nbytes: int) -> Iterator[None]:
    """In here the process may grow by so much. What wants more meets a `MemoryError`, or ends the process.

    Where the system does not tell its size or hold it to a limit (macOS) only the bounds of the sandbox and the
    deadline stand.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads take memory of their own, which is not the job's fault
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if size := _data_bytes():
        hard = before[1]
        wanted = size + nbytes
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What the limit counts, 0 where nobody says."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def main(arguments: Sequence[Any] = sys.argv) -> None:
    """Serves the socket whose number is the one argument.

    What lasts is kept from the garbage collector: to look through it takes longer than to make a prompt anew.
    """
    gc.freeze()
    with suppress(ValueError, OSError):  # what a killed or aborted process leaves would be prompts
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(int(arguments[1])) as connection:
        serve(connection)
