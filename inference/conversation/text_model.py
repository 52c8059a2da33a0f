"""Everything about a model that has to do with text: what the renderer needs, and nothing of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.conversation.shape import Traits
from inference.ports import ChatTemplate, Tokenizer


@dataclass(frozen=True, slots=True)
class TextModel:
    """Picklable. `template` None: the model was published without one and serves raw completions only.

    `generation_defaults` are the sampling values the model's authors recommend, under the names of `SamplingParams`.
    `dialects` are those it writes tool calls in, by its template and vocabulary, most likely first. `digest` changes
    when tokenizer, template or their settings change. `confined`: template or tokenizer hold constructs whose cost
    nobody can tell, so text of clients meets them only in a process that can be killed.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    context_tokens: int
    generation_defaults: Mapping[str, float | int] = field(default_factory=dict)
    traits: Traits = field(default_factory=Traits)
    dialects: tuple[str, ...] = ()
    digest: str = ""
    confined: bool = False
