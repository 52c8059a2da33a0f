"""The text side of a model, tried in a process that is killed when it does not end. Only then is it read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from inference.child import Child, ChildEnded
from inference.conversation.text_model import TextModel
from inference.engine.text_trial_process import Done, Examine, Order, Read
from inference.errors import EngineError, InferenceError, InvalidModel

READ_S: Final = 120.0
"""To start the process and read the files; a tokenizer that must be converted first takes some seconds."""
EXAMINE_S: Final = 10.0
"""To render some sixty conversations of a few words and read a few runs of characters: 0.3 s for most."""


def load_text_apart(path: Path, *, read_s: float = READ_S, examine_s: float = EXAMINE_S) -> TextModel:
    """As `load_text`, and neither template nor tokenizer is run in this process. Blocks.

    Raises `InvalidModel` also where they do not end, or want more memory than they may have.
    """
    child = Child("inference.engine.text_trial_process", lambda: None)
    try:
        _asked(child, Read(path), read_s, "reading its tokenizer")
        text = _asked(child, Examine(), examine_s, "trying its chat template and tokenizer")
    finally:
        child.end()
    if not isinstance(text, TextModel):
        raise EngineError("The process that tries templates and tokenizers gave no answer.")
    return text


def _asked(child: Child, order: Order, limit_s: float, doing: str) -> Any:
    """The answer. That of a model holds no tokenizer but where its file lies, and is made here."""
    try:
        answer: Done | TextModel | InferenceError = child.ask(order, limit_s)
    except ChildEnded as ended:
        if ended.overdue:
            raise InvalidModel(f"The model is not served: {doing} took longer than {limit_s:g} s.") from None
        raise InvalidModel(f"The model is not served: {doing} took too much memory or ended the process.") from None
    if isinstance(answer, InferenceError):
        raise answer
    return answer
