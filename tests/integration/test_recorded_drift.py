"""Recorded requests of real agents with and without what drifts in them: what is shared, and that nothing is lost.

Prompts are compared as text before tokens, by the ids of one template; the requests are those the clients sent, so
the figures are of omitting and of late binding alone. The tokenizer is small: real ones give two fifths as many tokens.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from inference.conversation.binding import bind
from inference.conversation.ledger_check import content_lost
from inference.conversation.lineage_memory import FRESH, LineageMemory, proven
from inference.conversation.render import render
from inference.conversation.spans import find
from inference.conversation.text_model import TextModel
from inference.conversation.volatile_policy import BIND, OMIT, VERBATIM, VolatilePolicy
from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from tests.recorded import FOLDER, needs_recordings
from tests.tokenizers_in_code import text_model

pytestmark = needs_recordings
MODEL = text_model("chatml")
"""Its template takes system messages anywhere and puts tools behind the first."""


def requests(pattern: str) -> Iterator[tuple[str, Conversation]]:
    """(run, conversation) of recorded chat and messages requests, in order."""
    for file in sorted(FOLDER.glob(pattern)):
        for line in file.read_text().splitlines() if not file.name.endswith(".responses.jsonl") else ():
            request = json.loads(line)
            path, body = request["path"].partition("?")[0], request["body"]
            if path == "/v1/chat/completions":
                yield f"{file.parent.name}/{file.stem}", convert_chat(ChatRequest.model_validate(_text_only(body)))
            elif path == "/v1/messages":
                yield f"{file.parent.name}/{file.stem}", _of_messages(body)


def _text_only(body: dict[str, Any]) -> dict[str, Any]:
    for message in body["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = [part for part in message["content"] if part["type"] == "text"]
    return body


def _of_messages(body: dict[str, Any]) -> Conversation:
    """The text of a Messages request, for these figures only; the dialect itself is no business of this test."""
    messages = [Message(Role.SYSTEM, _parts(body.get("system") or []))] if body.get("system") else []
    for item in body["messages"]:
        blocks = [{"type": "text", "text": item["content"]}] if isinstance(item["content"], str) else item["content"]
        if item["role"] == "assistant":
            calls = [
                ToolCall(one["id"], one["name"], json.dumps(one["input"]))
                for one in blocks
                if one["type"] == "tool_use"
            ]
            messages.append(Message(Role.ASSISTANT, _parts(blocks), tool_calls=tuple(calls)))
            continue
        for one in (one for one in blocks if one["type"] == "tool_result"):
            content = one.get("content") or ""
            parts = (TextPart(content),) if isinstance(content, str) else _parts(content)
            messages.append(Message(Role.TOOL, parts, tool_call_id=one["tool_use_id"]))
        if parts := _parts(blocks):
            messages.append(Message(Role(item["role"]), parts))
    tools = tuple(
        Tool(one["name"], one.get("description", ""), one["input_schema"])
        for one in body.get("tools", ())
        if "input_schema" in one
    )
    return Conversation(tuple(messages), tools)


def _parts(blocks: list[dict[str, Any]] | str) -> tuple[TextPart, ...]:
    if isinstance(blocks, str):
        return (TextPart(blocks),)
    return tuple(TextPart(one["text"]) for one in blocks if one["type"] == "text" and one["text"])


def common(one: tuple[int, ...], other: tuple[int, ...], step: int = 1024) -> int:
    """How many ids two prompts share from the beginning."""
    at = 0
    while at < len(one) and one[at : at + step] == other[at : at + step]:
        at += step
    pairs = enumerate(zip(one[at:], other[at:], strict=False))
    end = min(len(one), len(other))
    return next((at + number for number, (a, b) in pairs if a != b), end)


def prefilled(
    conversations: list[Conversation], policy: VolatilePolicy, model: TextModel = MODEL
) -> list[tuple[int, int]]:
    """(tokens, tokens to compute) of each request when all earlier prompts and their answers are stored.

    Nothing may be lost. An answer is taken as its client echoes it, which is what healing comes to.
    """
    stored: list[tuple[int, ...]] = []
    records: list[LineageMemory] = []
    figures = []
    for at, conversation in enumerate(conversations):
        bound = bind(conversation, proven(records, conversation) if policy.rebind else FRESH, policy)
        prompt = render(model, bound.conversation)
        assert not content_lost(model.tokenizer, prompt, conversation, bound.ledger)
        figures.append((len(prompt), len(prompt) - max((common(prompt.ids, one) for one in stored), default=0)))
        answer = _answer(conversation, conversations[at + 1 :])
        stored.append(prompt.ids)
        if answer is not None:
            whole = replace(bound.conversation, messages=(*bound.conversation.messages, answer))
            stored.append(
                render(model, replace(whole, continue_final=bool(answer.parts) and not answer.tool_calls)).ids
            )
        records.append(bound.memory.answered([call.id for call in answer.tool_calls] if answer else []))
    return figures


def _answer(conversation: Conversation, later: list[Conversation]) -> Message | None:
    """What answered a request, by the request that goes on from it; a tail that is not sent again does not count."""
    told = [message.text for message in without_tails(conversation)]
    for other in later:
        messages = without_tails(other)
        if [message.text for message in messages[: len(told)]] == told and len(messages) > len(told):
            following = messages[len(told)]
            return following if following.role is Role.ASSISTANT else None
    return None


def without_tails(conversation: Conversation) -> list[Message]:
    whole = {span.message for span in find(conversation).spans if span.whole}
    return [message for number, message in enumerate(conversation.messages) if number not in whole]


def test_a_new_session_of_claude_code_shares_what_stands_behind_its_billing_header() -> None:
    first_of: dict[str, Conversation] = {}
    for run, conversation in requests("claude-code/*.jsonl"):
        first_of.setdefault(run, conversation)
    assert len(first_of) >= 3, "no sessions of Claude Code in the recordings"
    opening = list(first_of.values())
    verbatim, omitted = prefilled(opening, VERBATIM), prefilled(opening, OMIT)
    for run, before, after in zip(first_of, verbatim, omitted, strict=True):
        print(f"{run}: {before[0]} tokens, to compute {before[1]} as sent, {after[1]} with telemetry omitted")
    saved = [
        (before[1], after[1]) for before, after in zip(verbatim, omitted, strict=True) if after[1] < 0.9 * before[1]
    ]
    assert saved, "no run's header differed"
    assert all(after < 0.3 * before for before, after in saved)


def test_recorded_runs_lose_nothing_and_compute_no_more() -> None:
    runs: dict[str, list[Conversation]] = defaultdict(list)
    for run, conversation in requests("*/*.jsonl"):
        runs[run.partition("/")[0]].append(conversation)
    for client, conversations in runs.items():
        omitted, bound = (sum(one for _, one in prefilled(conversations, policy)) for policy in (OMIT, BIND))
        print(f"{client}: {len(conversations)} requests, tokens to compute {omitted}, with late binding {bound}")
        assert bound <= omitted, client


def test_a_tail_that_vanishes_is_no_reason_to_compute_an_answer_anew() -> None:
    """With a template that keeps reasoning; one that drops it behind each user message computes the answer anyway."""
    conversations = [conversation for _, conversation in requests("openclaw/s1*.jsonl")]
    assert len(conversations) >= 4, "no session of OpenClaw in the recordings"
    model = text_model("channels")
    omitted, bound = ([one for _, one in prefilled(conversations, policy, model)] for policy in (OMIT, BIND))
    print(f"OpenClaw: tokens to compute {omitted}, with late binding {bound}")
    assert all(after <= before for before, after in zip(omitted, bound, strict=True))
    assert sum(bound[1:4]) < 0.8 * sum(omitted[1:4])
