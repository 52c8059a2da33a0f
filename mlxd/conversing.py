"""The way from a request to its prompt.

    read its meaning -> recognise our own answers -> place it in the lineage -> bind what drifts -> render

It is the same for a request and for a question about one. Large bodies are read off the loop; the lineage lives on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from inference.conversation.binding import Bound, bind
from inference.conversation.difference import Reading
from inference.conversation.healing import Recognised
from inference.conversation.lineage_memory import FRESH, LineageMemory, proven
from inference.conversation.meaning import meaning_of
from inference.conversation.preparer import LARGE_BODY_BYTES, Preparer
from inference.conversation.preparer_process import Echoed, Job
from inference.conversation.render import Rendered
from inference.conversation.text_model import TextModel
from inference.conversation.thinking import keeps_thoughts, quieted, thoughts_move
from inference.conversation.turn_chain import Placed
from inference.conversation.volatile_policy import BIND, VolatilePolicy
from inference.messages import Conversation, Tool
from inference.params import CacheScope, GenerationParams
from inference.ports import ModelRef
from inference.streaming.splitter import ReasoningMode
from inference.tokens import Prompt, TokenIds
from mlxd.answering import tags_of
from mlxd.cache_scope import cache_scope, is_brief
from mlxd.echoes import Echoes
from mlxd.kept_tools import with_tools
from mlxd.ledger.asked import asked_of
from mlxd.ledger.ledger import Ledger
from mlxd.ledger.recorded import Known
from mlxd.ledger.whose import Whose
from mlxd.ledger.witness import Observed, Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of a model: an answer to `conversation`, else to go on from `raw_prompt`.

    `body_bytes` is the size of the request's body, `session` the conversation that the client says it belongs to,
    `conv` what it is called where the client does not; only requests of one `salt` share what is stored. `volatile`
    says what may be done with drifting text. `keep_tools`: a request without tools may read those of its lineage, for
    no call of it will come. What is not `counted` is only looked at.
    """

    params: GenerationParams
    conversation: Conversation | None = None
    raw_prompt: str | TokenIds = ""
    client: str = ""
    body_bytes: int = 0
    session: str = ""
    conv: str = ""
    salt: bytes = b""
    volatile: VolatilePolicy = BIND
    keep_tools: bool = False
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Heard:
    """A conversation as it was understood: what is to be rendered, our answers in it, its place among the turns."""

    job: Echoed
    found: Recognised | None
    known: Known


@dataclass(frozen=True, slots=True)
class Understood:
    """A request with its prompt, and with whom it shares what is computed. `kept_tools`: its prompt has tools that the
    request has not, and none may be called."""

    prompt: Prompt
    scope: CacheScope
    found: Recognised | None
    known: Known
    observed: Observed
    kept_tools: bool = False


@dataclass(frozen=True, slots=True)
class Conversing:
    """Who remembers answers and turns, who renders, and who looks at it afterwards. `reasoning`: how thoughts are told
    from answers."""

    echoes: Echoes
    ledger: Ledger
    preparer: Preparer
    witness: Witness
    reasoning: ReasoningMode

    async def understand(self, model: ModelRef, text: TextModel, asking: Asking) -> Understood:
        """Raises what `Preparer.prepare` raises. Changes nothing but counts."""
        whose = self._whose(text, asking)
        conversation = asking.conversation
        heard = None if conversation is None else await self.hear(model.id, text, conversation, whose, asking)
        job = asking.raw_prompt if heard is None else heard.job
        rendered = await self._rendered(model, text, job, asking)
        prompt = self.echoes.counted(rendered) if asking.counted else rendered.prompt
        known = Known(whose) if heard is None else heard.known
        session = asking.session if known.placed is None else known.placed.session
        scope = cache_scope(text, conversation, prompt, session, asking.salt)
        read = Conversation(()) if heard is None else heard.job.conversation
        keeps = keeps_thoughts(text, read)
        reading = Reading(text.tokenizer, prompt, read, known.spans, known.spoken, whose.think, keeps=keeps)
        observed = self.witness.observe(reading, conversation, known.placed)
        found = None if heard is None else heard.found
        kept = conversation is not None and read.tools != conversation.tools
        return Understood(prompt, scope, found, replace(known, observed=observed), observed, kept)

    async def hear(
        self, model_id: str, text: TextModel, conversation: Conversation, whose: Whose, asking: Asking
    ) -> Heard:
        """What is to be rendered of a conversation."""
        size, policy = asking.body_bytes, asking.volatile
        meaning = await _apart(size, partial(meaning_of, conversation, whose.think, saying=self.echoes.sayings))
        found = await self.echoes.recognise(model_id, text, meaning, asking.salt, size, counted=asking.counted)
        digests = meaning.digests if found is None else found.digests
        known = self.ledger.place(None if found is None else asked_of(meaning, whose, digests), whose)
        memory = _memory(known.placed, conversation, whose)
        raw = {} if found is None else found.raw
        work = partial(bind, conversation, memory, policy, meaning=meaning, keys=digests)
        stands = not thoughts_move(text, conversation, raw.values())
        bound = await _apart(size, partial(work, tail_stands=stands))
        at_s = memory.began_s if memory.echoed and policy.rebind else 0.0
        rendered, ledger = bound.conversation, bound.ledger
        if (placed := known.placed) is not None:
            at_s = at_s or placed.asked.at_s
            if tools := self._tools_of(asking, placed, memory):
                rendered, ledger = replace(rendered, tools=tools), with_tools(ledger, tools)
                placed = _reading_tools_of_its_parent(placed)
            known = replace(known, placed=replace(placed, memory=_kept(bound, whose, at_s)))
        known = replace(known, spans=ledger, spoken=frozenset(raw))
        return Heard(Echoed(rendered, bound.renumbered(raw), at_s), found, known)

    def _tools_of(self, asking: Asking, placed: Placed, memory: LineageMemory) -> tuple[Tool, ...]:
        """The tools to leave in the prompt of a request that has none: those of the turn it provably goes on from.
        What a request does have is remembered for the next."""
        asked, given = placed.asked, self.echoes.tools
        sent = () if asking.conversation is None else asking.conversation.tools
        if sent and asking.counted:
            given.keep(asked.owner, asked.tools, sent)
        if sent or not asking.keep_tools or not memory.echoed or placed.parent is None:
            return ()
        return given.of(asked.owner, placed.parent.tools)

    async def _rendered(self, model: ModelRef, text: TextModel, job: Job, asking: Asking) -> Rendered:
        rendered = await self.preparer.prepare_with_notes(model.path, text, job, asking.body_bytes)
        if isinstance(job, Echoed) and asking.params.thinking_budget_tokens == 0:
            return replace(rendered, prompt=quieted(text, rendered.prompt, tags_of(text, self.reasoning)))
        return rendered

    def _whose(self, text: TextModel, asking: Asking) -> Whose:
        return Whose(
            asking.client,
            asking.session or asking.conv,
            bool(asking.session),
            is_brief(asking.conversation),
            asking.params.n,
            tags_of(text, self.reasoning),
        )


async def _apart[T](body_bytes: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if body_bytes > LARGE_BODY_BYTES else work()


def _memory(placed: Placed | None, conversation: Conversation, whose: Whose) -> LineageMemory:
    """What the model has read of this lineage, if the request proves that it goes on from it."""
    if placed is None:
        return FRESH
    return proven(placed.memories, conversation, whose.session if whose.named else "")


def _reading_tools_of_its_parent(placed: Placed) -> Placed:
    """As its turn is to be remembered: whoever goes on from it goes on from these tools."""
    tools = b"" if placed.parent is None else placed.parent.tools
    return replace(placed, asked=replace(placed.asked, tools=tools))


def _kept(bound: Bound, whose: Whose, at_s: float) -> LineageMemory:
    """What is to be remembered once the request is answered, but for the calls that are made in the answer."""
    session = whose.session if whose.named else bound.memory.session
    return replace(bound.memory, session=session, began_s=bound.memory.began_s or at_s)
