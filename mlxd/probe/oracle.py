"""How many tokens a request needs computed at least, by this probe's own reading of the model's text side.

necessary(R) is the smaller of

(A) |R| - the longest common prefix of R with any earlier prompt, or prompt and answer, all as they were sent but for
    telemetry, which says nothing to a model;
(B) only where R sends back an answer of its own session: the same with the volatile spans cut out of what stands up to
    that answer, compared with that session's earlier requests alone, plus the tokens of every value among those spans
    that is new or has changed.

At least 1. An answer sent back is read as the ids that were written, however its client spells it; to one that the
model ended itself belongs the token that ended it. Nothing of the server under test is used, and nothing of a prefix
tree: every earlier sequence is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference.conversation.render import render
from inference.conversation.spans import VolatileSpan
from inference.conversation.spoken import RawTurn
from inference.conversation.text_model import TextModel
from inference.messages import Conversation, Tool
from inference.tokens import Prompt, TokenIds
from mlxd.api.convert import convert_chat
from mlxd.api.reasoning import reasoning_wish, template_args
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import validate
from mlxd.probe import cuts
from mlxd.probe.asks import Ask, Message
from mlxd.probe.spoken import Raws, raw_of, without_raw


@dataclass(frozen=True, slots=True)
class Needed:
    """`tokens` must be computed of `total`.

    `reread_thoughts` and `reread_tools` are those among them that had been read already: what stands up to the last
    answer, because the template takes a thought out there, or because the tools are others. `bound`: less was
    necessary because volatile spans need not be read again. `floor`: who computes fewer has not read what was sent.
    It is less than `tokens` only where a whole message has vanished. A server may let it stand, and then a template
    that looks for the user's last message takes out other thoughts than from the request as it came; and where the
    client sends it again at the end, saying what it said before, it need not be read again.
    """

    tokens: int
    total: int
    reread_thoughts: int = 0
    reread_tools: int = 0
    bound: bool = False
    floor: int = 1


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer, and what was known when it had been given: `bare` sequences are those without volatile spans.
    `whole` has, by rule, what the last message before it said that is such a span as a whole."""

    message: Message
    tools: tuple[Tool, ...]
    values: Mapping[cuts.Place, str]
    bare: tuple[TokenIds, ...]
    whole: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Goes:
    """Where a request goes on from: the last answer of its session in it, at message `at`."""

    records: tuple[_Answered, ...]
    at: int


@dataclass(slots=True)
class Oracle:
    """Remembers what one server was sent and has answered."""

    text: TextModel
    _seen: list[TokenIds] = field(default_factory=list)
    _answers: defaultdict[str, list[_Answered]] = field(default_factory=lambda: defaultdict(list))
    _raws: Raws = field(default_factory=Raws)

    def prompt(self, ask: Ask) -> Prompt:
        """The ids that the model reads for a request, telemetry left out."""
        whole = self._conversation(ask)
        return self._render(ask, cuts.cut(whole, cuts.telemetry(cuts.spans_of(whole))))

    def necessary(self, ask: Ask) -> Needed:
        """What must be computed for it. The request counts as seen from now on."""
        prompt = self.prompt(ask)
        known = max((common(prompt.ids, seen) for seen in self._seen), default=0)
        self._seen.append(prompt.ids)
        total, least, bound = len(prompt), len(prompt) - known, False
        goes = self._goes_on(ask)
        if goes is None:
            return Needed(max(1, least), total, floor=max(1, least))
        rest, stated = self._bound(ask, goes, ())
        if rest + stated < least:
            least, bound = rest + stated, True
        new = self._new_tokens(ask, prompt, goes.at)
        reread = max(0, least - bound * stated - new)
        changed = self._conversation(ask).tools != goes.records[-1].tools
        thought = any(one.message.get("reasoning_content") for one in goes.records)
        floor = min(least, new, self._standing(ask, goes)) if any(one.whole for one in goes.records) else least
        return Needed(max(1, least), total, reread * (thought and not changed), reread * changed, bound, max(1, floor))

    def answered(self, ask: Ask, answer: Message, *, ended: bool = False, said_tokens: int = 0) -> None:
        """The answer's tokens are known too. `ended` says that the model ended it, and did not run into a limit;
        `said_tokens` how many it wrote behind its thought."""
        whole = self._conversation(ask)
        spans = cuts.spans_of(whole)
        found = []
        for left in (cuts.telemetry(spans), spans):
            prompt = self._render(ask, cuts.cut(whole, left))
            raw = raw_of(self.text, prompt, answer, ended=ended, said_tokens=said_tokens)
            conversation = cuts.cut(whole, left).conversation
            found.append([prompt.ids, *self._spoken(ask, conversation, prompt, answer, raw, ended)])
        self._seen += found[0]
        known = cuts.values(spans, len(whole.messages))
        vanishing = {span.rule.name: span.text for span in spans if span.whole}
        self._answers[ask.session].append(_Answered(answer, whole.tools, known, tuple(found[1]), vanishing))

    # --- one request --------------------------------------------------------------------------------------------

    def _conversation(self, ask: Ask, *more: Message) -> Conversation:
        fields = {name: value for name, value in ask.fields.items() if name in ChatRequest.model_fields}
        request = validate(ChatRequest, {**fields, "messages": [*ask.spoken, *more]})
        wish = reasoning_wish(request).settled(thinking=True, preserve=True)
        return replace(convert_chat(request), template_args=template_args(wish, self.text.traits.control))

    def _render(self, ask: Ask, left: cuts.Cut) -> Prompt:
        raws = {at: self._raws.of(ask.session, ask.spoken[one]) for at, one in enumerate(left.origin)}
        return render(self.text, left.conversation, {at: raw for at, raw in raws.items() if raw is not None})

    def _spoken(
        self,
        ask: Ask,
        conversation: Conversation,
        prompt: Prompt,
        answer: Message,
        raw: RawTurn | None,
        ended: bool,
    ) -> list[TokenIds]:
        """The prompt with its answer, as far as both are known."""
        if raw is None:
            message = self._conversation(ask, answer).messages[-1]
            with_answer = replace(conversation, messages=(*conversation.messages, message))
            return without_raw(self.text, with_answer, ended=ended)
        self._raws.keep(ask.session, answer, raw)
        spoken = (*prompt.ids, *raw.ids)
        return [spoken, *((*spoken, one) for one in sorted(self.text.tokenizer.eos_ids) if ended)]

    # --- where it goes on from ------------------------------------------------------------------------------------

    def _goes_on(self, ask: Ask) -> _Goes | None:
        records = tuple(one for one in self._answers[ask.session] if one.message in ask.spoken)
        if not records:
            return None
        last = len(ask.spoken) - 1 - ask.spoken[::-1].index(records[-1].message)
        return _Goes(records, last)

    def _standing(self, ask: Ask, goes: _Goes) -> int:
        """(B) where a message that has moved to the end is let stand where it was; behind the answer alone it is asked
        for."""
        said, spans = goes.records[-1].whole, cuts.spans_of(self._conversation(ask))
        moved = [
            one for one in spans if one.message > goes.at + 1 and one.whole and said.get(one.rule.name) == one.text
        ]
        return sum(self._bound(ask, goes, moved))

    def _bound(self, ask: Ask, goes: _Goes, moved: Sequence[VolatileSpan]) -> tuple[int, int]:
        """(B): the tokens of what is new but for what `moved`, and those of each value that is new."""
        whole = self._conversation(ask)
        spans = cuts.spans_of(whole)
        new = [span for span in cuts.telemetry(spans) if span.message > goes.at]
        before_it = (span for span in spans if span.message <= goes.at)
        bare = self._render(ask, cuts.cut(whole, [*before_it, *new, *moved]))
        known = max(common(bare.ids, one) for record in goes.records for one in record.bare)
        before, now = goes.records[-1].values, cuts.values(spans, goes.at + 1)
        stated = [value for place, value in now.items() if before.get(place) != value]
        return len(bare) - known, sum(len(self.text.tokenizer.encode_field(value)) for value in stated)

    def _new_tokens(self, ask: Ask, prompt: Prompt, at: int) -> int:
        """How many tokens stand behind the answer at message `at`."""
        whole = self._conversation(ask)
        origin = cuts.cut(whole, cuts.telemetry(cuts.spans_of(whole))).origin
        starts = (one.token for one in prompt.boundaries if origin[one.message] > at)
        behind = next(starts, prompt.header if prompt.header is not None else len(prompt))
        ends = self.text.tokenizer.eos_ids
        end = next((one for one in range(behind - 1, -1, -1) if prompt.ids[one] in ends), behind)
        return len(prompt) - end


def common(left: TokenIds, right: TokenIds, step: int = 1024) -> int:
    """The length of the longest common prefix."""
    size = min(len(left), len(right))
    at = 0
    while at < size and left[at : at + step] == right[at : at + step]:
        at += step
    return next((one for one in range(at, min(at + step, size)) if left[one] != right[one]), size)
