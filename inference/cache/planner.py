"""Where in a prompt a recurrent state is worth keeping.

Attention KV can be cut at any token; a recurrent state is only where it was copied, and one can weigh as much as ten
blocks of KV. So it is copied where later prompts of the same conversation leave this one: before the opener of a
thought that the client will not send back, before the last message of the user and before the exchange that precedes
it, where this prompt itself left an earlier one, and every 2,048 tokens for all else. The end of the answer is not in
the prompt: the runner keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator

from inference.cache.blocks import BLOCK_TOKENS
from inference.tokens import Prompt

SNAPSHOT_EVERY_TOKENS = 2048


def snapshot_depths(
    prompt: Prompt,
    resumed_tokens: int,
    matched_tokens: int,
    *,
    opener_tokens: int = 0,
    last_user_message: int | None = None,
    waiting: tuple[int, ...] = (),
    on_grid: bool = False,
    every_tokens: int = SNAPSHOT_EVERY_TOKENS,
) -> tuple[int, ...]:
    """Depths in tokens, ascending, behind `resumed_tokens` and before the last token of the prompt.

    `matched_tokens` is how deep blocks matched (`Reuse.kv_depth_tokens`); `opener_tokens` of a thought close the
    prompt; `last_user_message` is a message number; others wait for the depths `waiting`. `on_grid` rounds down to
    grid lines, where a copy leaves the arithmetic of what follows as it was (for `ReuseMode.BITWISE`).
    """
    wanted = {*waiting, matched_tokens, len(prompt) - max(1, opener_tokens)}
    wanted.update(range(every_tokens, len(prompt), every_tokens))
    wanted.update(_before_messages(prompt, last_user_message))
    if on_grid:
        wanted = {depth // BLOCK_TOKENS * BLOCK_TOKENS for depth in wanted}
    return tuple(sorted(depth for depth in wanted if resumed_tokens < depth < len(prompt)))


def _before_messages(prompt: Prompt, last_user_message: int | None) -> Iterator[int]:
    """The last user message; the one two before it, where people change what they asked before, and where aider's files
    begin, which it moves behind a growing history; and the second of all: what stands before it, system and tools,
    opens other sessions. A conversation that goes on has all but the first of these behind it."""
    wanted = {boundary.message for boundary in prompt.boundaries[1:2]}
    wanted |= {last_user_message, last_user_message - 2} if last_user_message is not None else set()
    for boundary in prompt.boundaries:
        if boundary.message in wanted:
            yield _behind_the_field_before(prompt, boundary.token)


def _behind_the_field_before(prompt: Prompt, token: int) -> int:
    """Where template text that leads to `token` begins: another message in this place may have another role."""
    span = prompt.source.at(token - 1) if token else None
    return span.start if span is not None and not span.path else token
