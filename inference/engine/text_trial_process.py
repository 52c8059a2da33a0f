"""The process that meets a stranger's template and tokenizer first; `main` is called with the number of a socket.

Nothing stops a template or a pattern that does not end, and what is tried here would otherwise be tried in the process
that serves everybody. It lives for one model.
"""

from __future__ import annotations

import resource
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from inference.conversation.preparer_process import confined_to
from inference.conversation.text_model import TextModel
from inference.engine.text import Unexamined, examined, read_text
from inference.errors import EngineError, InferenceError

ROOM_BYTES: Final = 256 << 20
_MEMORY_BYTES: Final = 8 << 30
"""For the files: a tokenizer of 33 MB takes half a gigabyte."""


@dataclass(frozen=True, slots=True)
class Read:
    """The files of the model in a directory are to be read. Answered by a `Done`."""

    path: Path


@dataclass(frozen=True, slots=True)
class Examine:
    """What was read is to be tried. Answered by a `TextModel`."""


@dataclass(frozen=True, slots=True)
class Done:
    """It was read."""


Order = Read | Examine
Answer = Done | TextModel | InferenceError


def serve(connection: Connection) -> None:
    """Answers until the parent is gone."""
    read: Unexamined | None = None
    while True:
        try:
            order: Order = connection.recv()
            try:
                answer: Answer
                if isinstance(order, Read):
                    read, answer = read_text(order.path), Done()
                else:
                    answer = _examined(read)
            except InferenceError as error:
                answer = error
            except Exception:  # a fault of ours: told in full to the log, in short to the client
                traceback.print_exc()
                answer = EngineError("The process that tries templates and tokenizers failed.")
            connection.send(answer)
        except (EOFError, OSError):
            return


def _examined(read: Unexamined | None) -> TextModel:
    if read is None:
        raise EngineError("Nothing was read.")
    with confined_to(ROOM_BYTES):
        return examined(read)


def main(arguments: Sequence[Any] = sys.argv) -> None:
    """Serves the socket whose number is the one argument."""
    with suppress(ValueError, OSError):  # best effort: macOS does not hold a process to it
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(int(arguments[1])) as connection:
        serve(connection)
