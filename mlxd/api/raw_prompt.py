"""The `prompt` of a raw completion: text or token ids, one of them."""

from __future__ import annotations

from typing import Any, Final

from inference.errors import UnsupportedParameter
from inference.tokens import TokenIds
from mlxd.api.errors import InvalidField
from mlxd.api.validate import WRONG_TYPE

MAX_PROMPTS: Final = 64


def read_prompt(prompt: Any, vocab_size: int) -> str | TokenIds:
    """The text, or ids known to be in the vocabulary. Raises `InvalidField` or `UnsupportedParameter`."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        message = "prompt must be a string, an array of token ids, or an array with one of these."
        raise InvalidField(message, param="prompt", code=WRONG_TYPE)
    if not prompt:
        raise InvalidField("prompt must not be empty.", param="prompt")
    if isinstance(prompt[0], str | list):
        return _only(prompt, vocab_size)
    return _ids(prompt, "prompt", vocab_size)


def _only(prompts: list[Any], vocab_size: int) -> str | TokenIds:
    if len(prompts) > MAX_PROMPTS:
        raise InvalidField(f"prompt must have at most {MAX_PROMPTS} items.", param="prompt")
    if len(prompts) > 1:
        message = "prompt with more than 1 item is not offered: send one request for each."
        raise UnsupportedParameter(message, param="prompt")
    only = prompts[0]
    return only if isinstance(only, str) else _ids(only, "prompt[0]", vocab_size)


def _ids(ids: list[Any], path: str, vocab_size: int) -> TokenIds:
    if not ids:
        raise InvalidField(f"{path} must not be empty.", param=path)
    check_ids(ids, path, vocab_size)
    return tuple(ids)


def check_ids(ids: list[Any], path: str, vocab_size: int) -> None:
    """Raises `InvalidField` for the first that is no token id of the model."""
    if {type(token) for token in ids} == {int} and min(ids) >= 0 and max(ids) < vocab_size:
        return  # the check above runs in C: prompts of 100,000 ids are common
    at = next(i for i, token in enumerate(ids) if type(token) is not int or not 0 <= token < vocab_size)
    param = f"{path}[{at}]"
    raise InvalidField(f"{param} must be a token id: an integer from 0 to {vocab_size - 1}.", param=param)
