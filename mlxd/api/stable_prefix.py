"""How many messages of a request were wholly read before: the figure in which agents' authors think."""

from __future__ import annotations

from itertools import pairwise

from inference.tokens import Prompt


def whole_messages(prompt: Prompt, tokens: int) -> int:
    """Messages that lie wholly within the first `tokens` of a prompt, counted up to the first that does not."""
    starts = [boundary.token for boundary in prompt.boundaries]
    end = len(prompt) if prompt.header is None else prompt.header
    count = 0
    for _, stop in pairwise([*starts, end]):
        if stop > tokens:
            break
        count += 1
    return count
