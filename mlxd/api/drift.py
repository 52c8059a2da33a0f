"""What is done with drifting text in a request: as it wishes, else as is set for its model, else for all of them.

The answer's header tells which policy was used and what was done; the line in the log has the counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.http import HttpResponse

from inference.conversation.span_ledger import Fate, SpanLedger
from inference.conversation.volatile_policy import KNOWN, VolatilePolicy, policy_of
from inference.errors import InvalidParameter
from mlxd.api import policy
from mlxd.kept_tools import RULE
from mlxd.served import ServedModel

HEADER: Final = "X-Mlxd-Volatile"
_CHANGES: Final = (Fate.OMITTED, Fate.PINNED, Fate.RESTATED, Fate.RELOCATED, Fate.RETAINED)
"""All but what is read as it was sent."""


def wanted(headers: Mapping[str, str], model: ServedModel) -> VolatilePolicy:
    """What may be done for a request. Raises `InvalidParameter` for a header that names no policy."""
    server = policy.current()
    set_for_it = model.settings.volatile or server.volatile_of.get(model.id, server.volatile)
    asked = headers.get(HEADER.lower(), "").strip().lower()
    if (found := policy_of(asked or set_for_it)) is None:
        raise InvalidParameter(f"The header {HEADER} must be one of: {KNOWN}.", param=HEADER)
    return found.keeping_tools if server.keep_tools and not asked else found


def tell(response: HttpResponse, ledger: SpanLedger | None) -> None:
    """Which policy was used, and what was done by it; of what is retained, how many are tools."""
    if ledger is not None:
        done = [f"{fate}={count}" for fate, count in _changes(ledger).items()]
        tools = sum(entry.rule == RULE for entry in ledger.entries)
        response[HEADER] = "; ".join((ledger.policy, *done, *([f"tools={tools}"] if tools else [])))


def figures(ledger: SpanLedger | None) -> dict[str, str | int]:
    """For the line in the log: what was done, where something was."""
    if ledger is None:
        return {}
    counts: dict[str, str | int] = {f"{fate}_spans": count for fate, count in _changes(ledger).items()}
    return counts | ({"refused_rules": ",".join(ledger.refused)} if ledger.refused else {})


def _changes(ledger: SpanLedger) -> dict[str, int]:
    """How many spans were not read as they were sent, by what became of them."""
    return {fate.value: count for fate in _CHANGES if (count := ledger.counts.get(fate.value, 0))}
