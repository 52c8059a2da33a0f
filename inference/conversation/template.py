"""A model's chat template behind the port `ChatTemplate`: pure text in, pure text out, errors as `TemplateFailed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes

from inference.conversation.allowance import TemplateLimitError, TooCostly, allowance
from inference.conversation.sandbox import TICK, ChatEnvironment, collect, deadline_tick
from inference.errors import TemplateFailed
from inference.ports import ChatTemplate

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now", TICK})


@dataclass(frozen=True, slots=True)
class Compiled:
    """`literals` is all text the template itself can write."""

    template: Template
    literals: str


@lru_cache(maxsize=16)
def compile_template(source: str) -> Compiled:
    """Raises `TemplateFailed` when the source is no Jinja template."""
    environment = ChatEnvironment()
    try:
        code, tree = environment.guarded(source)
    except TemplateSyntaxError as error:
        raise TemplateFailed(f"The model's chat template has a syntax error in line {error.lineno}.") from error
    except (RecursionError, TemplateError) as error:
        raise TemplateFailed("The model's chat template cannot be compiled.") from error
    template = Template.from_code(environment, code, environment.make_globals(None))
    literals = [node.data for node in tree.find_all(nodes.TemplateData)]
    literals += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return Compiled(template, "\0".join(literals))


def local_strftime(format_: str, at_s: float | None = None) -> str:
    """The date a template asks for, in local time; without `at_s` (Unix time) by the machine's clock."""
    return time.strftime(format_, time.localtime(at_s))


def showing(template: ChatTemplate | None, at_s: float) -> ChatTemplate | None:
    """The template with its clock stopped at a Unix time; as it is for 0.0."""
    if not at_s or not isinstance(template, JinjaTemplate):
        return template
    return replace(template, strftime_now=partial(local_strftime, at_s=at_s))


@dataclass(frozen=True, slots=True)
class JinjaTemplate:
    """One model's chat template. Picklable: the source travels, compiling is done where it is used.

    `tool_source` is the variant for requests with tools, where the model has a separate one. `specials` are the
    tokenizer's named tokens (`bos_token` ...). `strftime_now` is the clock templates may read; give a fixed one to
    freeze it. `limit_s` is the processor time one render may use.
    """

    source: str
    tool_source: str = ""
    specials: Mapping[str, str] = field(default_factory=dict)
    strftime_now: Callable[[str], str] = local_strftime
    limit_s: float = 4.0

    @property
    def literals(self) -> str:
        """All text that the template can write by itself."""
        return self._compiled(False).literals + "\0" + self._compiled(True).literals

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        arguments: Mapping[str, Any],
    ) -> str:
        """The text of a conversation. `arguments` cannot replace what every render is given."""
        compiled = self._compiled(bool(tools))
        values: dict[str, Any] = {name: value for name, value in arguments.items() if name not in _RESERVED}
        values |= self.specials
        values |= {"messages": list(messages), "tools": list(tools) or None, "documents": None}
        values |= {"add_generation_prompt": add_generation_prompt, "strftime_now": self.strftime_now}
        values[TICK] = deadline_tick(min(self.limit_s, allowance().processor_s))
        return _run(compiled.template, values)

    def _compiled(self, with_tools: bool) -> Compiled:
        return compile_template(self.tool_source if with_tools and self.tool_source else self.source)


def _run(template: Template, values: dict[str, Any]) -> str:
    parts = template.root_render_func(template.new_context(values))
    chars = allowance().output_chars
    try:
        return collect(parts, chars, lambda: 4 * (_size(values["messages"]) + _size(values["tools"])))
    except TooCostly:
        raise
    except TemplateLimitError as error:
        raise TemplateFailed(str(error.message)) from error
    except TemplateError as error:
        raise TemplateFailed(f"The model's chat template refused the messages: {_brief(error)}") from error
    except Exception as error:  # a template can raise any Python error there is
        raise TemplateFailed(f"The model's chat template failed ({type(error).__name__}).") from error


def _brief(error: TemplateError) -> str:
    text = " ".join((error.message or type(error).__name__).split())
    return text if len(text) <= 200 else text[:200] + "…"


def _size(value: Any) -> int:
    """Characters of all strings in plain JSON-like data."""
    total, stack = 0, [value]
    while stack:
        match stack.pop():
            case str() as text:
                total += len(text)
            case dict() as mapping:
                stack += mapping.keys()
                stack += mapping.values()
            case list() | tuple() as items:
                stack += items
            case _:
                pass
    return total
