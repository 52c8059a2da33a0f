"""What a chat template can say, as found out by asking it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inference.conversation.sentinels import Markers


class SystemPlace(StrEnum):
    """Where the template takes a system message."""

    ANYWHERE = "anywhere"
    FIRST = "first"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Shape:
    """Each field is one thing a conversation may need; what is missing is said in the next best way.

    `alternates`: user and assistant must take turns, user first. `orphan_results`: a tool result whose call is gone.
    `content_with_calls`: text and calls in one assistant message. `raw_arguments`: arguments that are not a JSON
    object may be given as text. `id_chars`: the exact length the template wants of call ids (0: any). `names_in_ids`:
    the template shows a call's id but not its function (Kimi, whose own ids are `functions.NAME:NUMBER`).
    """

    system: SystemPlace = SystemPlace.ANYWHERE
    alternates: bool = False
    tools: bool = True
    needs_description: bool = False
    calls: bool = True
    parallel_calls: bool = True
    content_with_calls: bool = True
    arguments_mapping: bool = True
    raw_arguments: bool = True
    tool_role: bool = True
    orphan_results: bool = True
    content_list: bool = False
    id_chars: int = 0
    names_in_ids: bool = False


@dataclass(frozen=True, slots=True)
class ThinkingControl:
    """What a request can say about thinking through the template's own arguments.

    `switch` is the boolean argument that turns it on and off ("": there is none). `efforts` are the words that
    `reasoning_effort` takes, the least first. `budget` is the argument that tells the model its limit in tokens.
    `keeper` is the argument, with its value, under which reasoning of past turns is shown; `keeps`: it is shown in any
    case. `closing` is what stands between a thought and its answer ("": the template shows no thought).
    """

    switch: str = ""
    efforts: tuple[str, ...] = ()
    budget: str = ""
    keeper: tuple[str, bool] | None = None
    keeps: bool = False
    closing: str = ""


@dataclass(frozen=True, slots=True)
class Seams:
    """Between which texts of the template a past turn of the assistant stands: how its header may end (without what
    opens a thought), the markers that may end it, and those that may end a thought."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    thought_ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traits:
    """Everything probed once per model.

    `header` is the usual text that opens an assistant's turn. `think` are the model's think tags when its template
    takes thoughts apart from answers. `channels`: it thinks in a channel and answers in another. `control`: what the
    template can be told about thinking. `seams` None: past turns cannot be put back as ids.
    """

    shape: Shape = field(default_factory=Shape)
    markers: Markers = field(default_factory=Markers)
    header: str = ""
    think: tuple[str, str] | None = None
    channels: bool = False
    control: ThinkingControl = field(default_factory=ThinkingControl)
    seams: Seams | None = None
