"""Whether, how hard, how long and how visibly a model shall think: a request's wish, and what its template is told.

A request is read place by place, the nearest first: the fields of the body, `chat_template_kwargs`, `extra_body`
(what an SDK would have merged into the body), `metadata`. Each of the five answers of a `ReasoningWish` comes from the
nearest place that gives it, so a client's field wins over what a proxy put farther out. Two spellings at one place that
say different things are refused by both names: which one was meant cannot be known.

"Off" is more than a word about effort: agents send an effort with every request, so `enable_thinking: false` beside
`reasoning_effort: medium` is off. An effort or a budget alone means on.

`metadata` is the client's own notebook: its values may be strings, and what is no spelling there is no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, cast

from inference.conversation.control import EFFORTS
from inference.conversation.shape import ThinkingControl
from inference.errors import UnsupportedParameter
from mlxd.api.errors import InvalidField
from mlxd.api.policy import Policy
from mlxd.api.reasoning_spellings import READERS, WORDS, Said
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import WRONG_TYPE
from mlxd.model_settings import ModelSettings

Scalar = bool | int | float | str

TEMPLATE_ARGS: Final[dict[str, type]] = {
    "enable_thinking": bool,
    "thinking": bool,
    "reasoning": bool,
    "preserve_thinking": bool,
    "clear_thinking": bool,
    "preserve_reasoning": bool,
    "keep_past_thinking": bool,
    "truncate_history_thinking": bool,
    "drop_thinking": bool,
    "reasoning_effort": str,
    "thinking_budget": int,
    "reasoning_budget": int,
}
"""What `chat_template_kwargs` may set. Anything else could replace the template's own variables."""

_WORD: Final = re.compile(r"[a-z_]{1,32}")
_BODY: Final = tuple(name for name in READERS if name in ChatRequest.model_fields)
_USUAL_EFFORT: Final = "medium"


@dataclass(frozen=True, slots=True)
class ReasoningWish:
    """What one request says about thinking; None where it says nothing.

    `effort` is one of `EFFORTS` but "none". After `budget_tokens` a thought is closed. `exclude`: thoughts are not
    shown. `preserve`: reasoning of past turns stays in the prompt. `template_args` are those of
    `chat_template_kwargs` as they came, for a template that reads more into them.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget_tokens: int | None = None
    exclude: bool | None = None
    preserve: bool | None = None
    template_args: Mapping[str, Scalar] = field(default_factory=dict)

    def settled(self, *, thinking: bool, preserve: bool) -> ReasoningWish:
        """The wish with the server's defaults for what it leaves open."""
        return replace(
            self,
            enabled=thinking if self.enabled is None else self.enabled,
            preserve=preserve if self.preserve is None else self.preserve,
        )

    def settled_for(self, own: ModelSettings, server: Policy) -> ReasoningWish:
        """The wish with what is set for its model, else for all of them."""
        thinking = server.default_thinking if own.thinking is None else own.thinking
        preserve = server.preserve_thinking if own.preserve_thinking is None else own.preserve_thinking
        wish = replace(self, template_args={**own.template_args, **self.template_args})
        return wish.settled(thinking=thinking, preserve=preserve)

    @property
    def thought_limit_tokens(self) -> int | None:
        """The tokens one thought may have; 0 where there shall be none."""
        return 0 if self.enabled is False else self.budget_tokens


class _Place(NamedTuple):
    """Where statements may stand. `textual`: "true" and "2048" are values too. `free`: what is no spelling is none."""

    path: str
    fields: Mapping[str, Any]
    textual: bool = False
    free: bool = False


# --- what the request says --------------------------------------------------------------------------------------


def reasoning_wish(request: ChatRequest) -> ReasoningWish:
    """The wish of a request. Raises `InvalidField` or `UnsupportedParameter`, with the path of the field."""
    template_args = _template_args(request)
    found: dict[str, Any] = {}
    for place in _places(request, template_args):
        found = _agreed(place) | found
    if "enabled" not in found and found.keys() & {"effort", "budget_tokens"}:
        found["enabled"] = True
    return ReasoningWish(**found, template_args=template_args)


def _places(request: ChatRequest, template_args: Mapping[str, Scalar]) -> Iterator[_Place]:
    yield _Place("", {name: getattr(request, name) for name in _BODY})
    # An effort that only this template knows is passed on as it is.
    known = {name: value for name, value in template_args.items() if type(value) is not str or value in WORDS}
    yield _Place("chat_template_kwargs", known)
    extra = request.extra_body or {}
    yield _Place("extra_body", extra, textual=True)
    inner = extra.get("chat_template_kwargs")
    yield _Place("extra_body.chat_template_kwargs", inner if isinstance(inner, dict) else {}, textual=True)
    yield _Place("metadata", request.metadata or {}, textual=True, free=True)


def _agreed(place: _Place) -> dict[str, bool | int | str]:
    """What a place says, each thing once. Raises `InvalidField` for two statements that contradict each other."""
    said: dict[str, Said] = {}
    for one in _statements(place):
        first = said.setdefault(one.about, one)
        if first.value != one.value and not place.free:
            message = f"{first.path} and {one.path} contradict each other: send one of them."
            raise InvalidField(message, param=one.path)
    return {about: one.value for about, one in said.items()}


def _statements(place: _Place) -> Iterator[Said]:
    for name, read in READERS.items():
        value = place.fields.get(name)
        if value is None:
            continue
        try:
            yield from read(_untexted(value) if place.textual else value, f"{place.path}.{name}".lstrip("."))
        except InvalidField:
            if not place.free:
                raise


def _untexted(value: Any) -> Any:
    """A boolean or a number that had to be sent as a string."""
    if value in ("true", "false"):
        return value == "true"
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value) else value


def _template_args(request: ChatRequest) -> dict[str, Scalar]:
    return checked_args(request.chat_template_kwargs or {})


def checked_args(sent: Mapping[str, Any]) -> dict[str, Scalar]:
    """Arguments for a chat template from whoever sent them. Raises as `reasoning_wish`."""
    return {name: _template_arg(name, value) for name, value in sent.items() if value is not None}


def _template_arg(name: str, value: Any) -> Scalar:
    wanted = TEMPLATE_ARGS.get(name)
    if wanted is None:
        message = f"chat_template_kwargs takes only {', '.join(TEMPLATE_ARGS)}."
        raise UnsupportedParameter(message, param="chat_template_kwargs")
    path = f"chat_template_kwargs.{name}"
    if type(value) is not wanted:  # not isinstance: true is an int to Python
        kind = {bool: "true or false", int: "an integer", str: "a string"}[wanted]
        raise InvalidField(f"{path} must be {kind}.", param=path, code=WRONG_TYPE)
    if isinstance(value, str) and not _WORD.fullmatch(value):  # it is written into the prompt as template text
        raise InvalidField(f"{path} must be one lower-case word.", param=path)
    return cast(Scalar, value)


# --- what the template is told ----------------------------------------------------------------------------------


def template_args(wish: ReasoningWish, control: ThinkingControl) -> dict[str, Scalar]:
    """The wish in the words of one model's template. What it has no words for is left to the engine."""
    args = dict(wish.template_args)
    if control.switch and wish.enabled is not None:
        args[control.switch] = wish.enabled
    if (word := _effort(wish, control)) is not None:
        args["reasoning_effort"] = word
    if control.budget and (limit := wish.thought_limit_tokens) is not None:
        args[control.budget] = limit
    if control.keeper and wish.preserve is not None:
        name, keep = control.keeper
        args[name] = keep is wish.preserve
    return args


def _effort(wish: ReasoningWish, control: ThinkingControl) -> str | None:
    """The nearest word that the template knows, of two equally near the one for more; the least where off has no
    switch; and where the word is the switch, a usual one for on."""
    if not control.efforts:
        return None
    if wish.enabled is False:
        return None if control.switch else control.efforts[0]
    is_switch = not control.switch and control.efforts[0] == "none"
    wanted = wish.effort or (_USUAL_EFFORT if is_switch and wish.enabled else None)
    if wanted is None:
        return None
    rank = EFFORTS.index(wanted)
    words = [word for word in reversed(control.efforts) if word != "none"]
    return min(words, key=lambda word: abs(EFFORTS.index(word) - rank), default=None)
