"""What is known of a request when its line is logged. Figures and names of ours only; never what the client wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.conversation.span_ledger import SpanLedger
from inference.tokens import Prompt
from mlxd.api import drift
from mlxd.api.chunks import Reducer
from mlxd.api.stable_prefix import whole_messages

SCOPE_KEY: Final = "mlxd.facts"
UNROUTED: Final = "(none)"


@dataclass(slots=True)
class Facts:
    """Filled on the way; `reducer` tells how a generation ended. `error` is a code, not a message.

    Of one that was left or broken off before its end only what its headers said is known: a request whose client gave
    up while a long prompt was read is the one whose verdict is looked for.

    `conv` names the conversation by a digest, `key_id` the key that was sent, `spans` is what became of its volatile
    text.
    """

    route: str = UNROUTED
    model: str | None = None
    stream: bool | None = None
    prompt: Prompt | None = None
    conv: str | None = None
    key_id: str | None = None
    refused: str | None = None
    reducer: Reducer | None = None
    spans: SpanLedger | None = None

    @property
    def error(self) -> str | None:
        failed = self.reducer.error if self.reducer is not None else None
        return failed.code if failed is not None else self.refused

    def figures(self) -> dict[str, Any]:
        """Keyword arguments of `log_request`; None for what is not known."""
        admitted, ended = (None, None) if self.reducer is None else (self.reducer.admitted, self.reducer.finished)
        figures: dict[str, Any] = {
            "model": self.model,
            "stream": self.stream,
            "prompt_tokens": None if self.prompt is None else len(self.prompt),
            "conv": self.conv,
            "key_id": self.key_id,
            "error": self.error,
            **drift.figures(self.spans),
        }
        begun = ended.usage if ended is not None else admitted
        if begun is not None:
            figures |= {"cached_tokens": begun.cached_tokens, "verdict": begun.verdict}
            if self.prompt is not None and self.prompt.boundaries:
                figures["stable_prefix_msg_count"] = whole_messages(self.prompt, begun.cached_tokens)
        if ended is not None:
            usage = ended.usage
            figures |= {
                "lost_tokens": usage.lost_tokens,
                "completion_tokens": usage.completion_tokens,
                "queue_ms": 1000 * usage.queue_s,
                "ttft_ms": 1000 * (usage.queue_s + usage.prefill_s),
                "decode_tps": usage.decode_tps,
                "finish_reason": str(ended.reason),
            }
        return figures


def facts_of(scope: Mapping[str, Any]) -> Facts:
    """The facts of a request, or a sheet nobody reads where no log was wanted."""
    found: Facts = scope.get(SCOPE_KEY) or Facts()
    return found
