"""`/v1` as OpenAI's clients know it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from ninja import Router

from inference.conversation.shape import ThinkingControl
from inference.errors import UnsupportedParameter
from inference.messages import Conversation
from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import AnyKey, caller_of
from mlxd.api.chunks import ChatShape, CompletionShape
from mlxd.api.convert import convert_chat
from mlxd.api.formats import alone, read_format, shape_answer
from mlxd.api.generate import Ask, generate, read, resolve_params
from mlxd.api.raw_prompt import read_prompt
from mlxd.api.reasoning import ReasoningWish, reasoning_wish, template_args
from mlxd.api.refusals import refuse_chat, refuse_completion
from mlxd.api.schemas import ChatRequest, CompletionRequest
from mlxd.api.wire import new_id
from mlxd.runtime import ServedModel
from mlxd.served import unknown

router = Router(tags=["openai"])
any_key = AnyKey()


@router.post("/chat/completions", auth=any_key, summary="Answer a conversation")
async def chat_completions(request: ASGIRequest) -> HttpResponse:
    return await generate(request, await ask_chat(request.body))


async def ask_chat(raw: bytes) -> Ask:
    """A chat request, read and settled."""

    def convert(body: ChatRequest) -> tuple[Conversation, ReasoningWish]:
        refuse_chat(body)
        return convert_chat(body), reasoning_wish(body)

    body, (conversation, wish) = await read(raw, ChatRequest, convert)
    content = await read_format(body, len(raw))
    wish = wish.settled_for(runtime.current().resolve(body.model).settings, policy.current())
    grammar = await shape_answer(body, content, conversation.tools, wish.thought_limit_tokens)
    params, tokenizer = await resolve_params(body)
    return Ask(
        body,
        replace(params, thinking_budget_tokens=wish.thought_limit_tokens, grammar=grammar),
        ChatShape(tokenizer),
        new_id("chatcmpl-"),
        len(raw),
        conversation=replace(conversation, template_args=template_args(wish, await _thinking_control(body.model))),
        hide_reasoning=bool(wish.exclude),
    )


async def _thinking_control(model: str | None) -> ThinkingControl:
    running = runtime.current()
    return (await running.text(running.resolve(model))).traits.control


@router.post("/completions", auth=any_key, summary="Continue a raw prompt")
async def completions(request: ASGIRequest) -> HttpResponse:
    return await generate(request, await ask_completion(request.body))


async def ask_completion(raw: bytes) -> Ask:
    """A request to continue a raw prompt, read and settled."""
    body, _ = await read(raw, CompletionRequest, refuse_completion)
    content = await read_format(body, len(raw))
    params, tokenizer = await resolve_params(body)
    prompt = read_prompt(body.prompt, tokenizer.vocab_size)
    if body.echo and not isinstance(prompt, str):
        raise UnsupportedParameter("echo of a prompt of token ids is not offered.", param="echo")
    shape = CompletionShape(prompt if body.echo and isinstance(prompt, str) else "", tokenizer)
    params = replace(params, grammar=alone(content))
    return Ask(body, params, shape, new_id("cmpl-"), len(raw), raw_prompt=prompt)


@router.get("/models", auth=any_key, summary="The models served here")
async def models(request: ASGIRequest) -> dict[str, Any]:
    caller = caller_of(request)
    served = [model for model in runtime.current().models if caller.may_use(model.id)]
    listed = [_model(model, name) for model in served for name in dict.fromkeys((model.id, *model.settings.aliases))]
    return {"object": "list", "data": listed}


@router.get("/models/{path:model_id}", auth=any_key, summary="One model")
async def model(request: ASGIRequest, model_id: str) -> dict[str, Any]:
    """Only what is listed is found: unlike a request, a look-up is not answered with another model."""
    found = next((served for served in runtime.current().models if served.answers_to(model_id)), None)
    if found is None or not caller_of(request).may_use(found.id):
        raise unknown(model_id)
    return _model(found, model_id if model_id in found.settings.aliases else found.id)


def _model(served: ServedModel, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": served.created_s, "owned_by": "mlxd"}
