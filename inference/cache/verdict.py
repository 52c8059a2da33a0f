"""Why a request was warm or not: a closed set of names, and the rule that picks one from what the store can know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inference.cache.blocks import BLOCK_TOKENS, Root


class VerdictName(StrEnum):
    """What blocks in memory and on the disk can tell. Messages and images add their own names to the set."""

    EXACT = "exact"
    """All of the prompt is stored, but for its last token, which is computed always."""
    EXTENDED = "extended"
    """It goes on where something stored ends."""
    BRANCHED = "branched"
    """It shares a beginning with something stored that goes on differently."""
    DIVERGED = "diverged"
    """As branched, and what goes on differently is the last request of the same session."""
    FIRST_SEEN = "first_seen"
    """Nothing stored begins like it, beyond the few tokens with which every prompt of a template begins, and nothing of
    its own session."""
    EVICTED = "evicted"
    EXPIRED = "expired"
    CLEARED = "cleared"
    DISK_CORRUPT = "disk_corrupt"
    """It was on the disk, and what is there now is not what was written."""
    QUARANTINED = "quarantined"
    """It was stored, and an audit found that it was not what a cold run computes."""
    NO_SNAPSHOT = "no_snapshot"
    """Blocks were there, but no recurrent state near their end."""
    TOO_SHORT = "too_short"
    TEMPLATE_CHANGED = "template_changed"
    SETTINGS_CHANGED = "settings_changed"
    MODEL_RELOADED = "model_reloaded"


SHARED_BY_ALL_TOKENS = 32
"""What prompts of one chat template share whatever they say: BOS, a role marker, `You are`."""
SNAPSHOT_SLACK_TOKENS = 64
"""A planned snapshot stands before the few tokens of a header or an opener; to lose those is no miss."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`at_token` is the first prompt token that is computed for the reason `name`; of `DIVERGED`, the first that is not
    as in the session's last request, even where others have stored more.

    `lost_tokens` were computed before and are computed again. `by` is the request for which room was made.
    """

    name: VerdictName
    at_token: int = 0
    lost_tokens: int = 0
    by: str = ""

    def __str__(self) -> str:
        if self.name is VerdictName.EVICTED:
            return f"{self.name}(by {self.by})" if self.by else str(self.name)
        return f"{self.name}(token {self.at_token})" if self.name is VerdictName.DIVERGED else str(self.name)


@dataclass(frozen=True, slots=True)
class Loss:
    """Tokens behind the match that were stored once, and why they are not any more."""

    reason: VerdictName
    tokens: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a lookup found. Depths in tokens.

    `limit` is how much of the prompt may be reused at all, `wanted` the least that is worth it, `matched` the depth of
    the blocks that match and `resumed` the depth that will be reused of it. `at_end`: the match ends where something
    stored ends. `session_root` is below what the session's last request was, None when it is new; `parts_at` is where
    the prompt leaves the path of that request, None where it does not.
    """

    root: Root
    limit: int
    wanted: int
    matched: int
    resumed: int
    at_end: bool
    needs_snapshot: bool
    bitwise: bool
    loss: Loss | None
    session_root: Root | None
    parts_at: int | None


def judge(seen: Evidence) -> Verdict:
    """The most telling reason: what was lost comes before what is merely different."""
    behind = seen.matched - seen.resumed
    if seen.limit < max(seen.wanted, BLOCK_TOKENS if seen.bitwise else 1):
        return Verdict(VerdictName.TOO_SHORT, seen.resumed, behind)
    if seen.loss is not None:
        return Verdict(seen.loss.reason, seen.matched, seen.loss.tokens + behind, seen.loss.by)
    if seen.needs_snapshot and behind > SNAPSHOT_SLACK_TOKENS:
        return Verdict(VerdictName.NO_SNAPSHOT, seen.resumed, behind)
    name = _by_path(seen)
    parts_at = seen.parts_at if name is VerdictName.DIVERGED else None
    return Verdict(name, seen.matched if parts_at is None else parts_at, behind)


def _by_path(seen: Evidence) -> VerdictName:
    if seen.matched == seen.limit:
        return VerdictName.EXACT
    if not seen.at_end and (change := _change_of_root(seen.session_root, seen.root)) is not None:
        return change
    if seen.parts_at is not None and not seen.at_end:
        return VerdictName.DIVERGED  # however short: a session's second turn has little before its first answer
    known = seen.session_root is not None and seen.at_end
    if seen.matched < (1 if known else min(SHARED_BY_ALL_TOKENS, seen.limit)):
        return VerdictName.FIRST_SEEN
    return VerdictName.EXTENDED if seen.at_end else VerdictName.BRANCHED


def _change_of_root(before: Root | None, now: Root) -> VerdictName | None:
    """Of one model only: a session that goes to another model is new there."""
    if before is None or before.model != now.model:
        return None
    if before.weights != now.weights:
        return VerdictName.MODEL_RELOADED
    if before.settings != now.settings:
        return VerdictName.SETTINGS_CHANGED
    return VerdictName.TEMPLATE_CHANGED if before.template != now.template else None
