"""What may be done with volatile spans: by a model's setting, or by a request that asks for all of it as sent."""

from __future__ import annotations

from dataclasses import dataclass

from inference.conversation.volatile import Kind, VolatileRule


@dataclass(frozen=True, slots=True)
class VolatilePolicy:
    """What may be done, by kind. `also_rebind` and `relocate` name rules for which more is wished than by default.

    `name` is what the record of a request says was used.
    """

    name: str
    omit: bool = False
    pin: bool = False
    rebind: bool = False
    also_rebind: frozenset[str] = frozenset()
    relocate: frozenset[str] = frozenset()

    def rebinds(self, rule: VolatileRule) -> bool:
        changes = rule.kind in (Kind.CLOCK, Kind.CONTEXT) and (rule.rebind_safe or rule.name in self.also_rebind)
        return self.rebind and changes


VERBATIM = VolatilePolicy("verbatim")
OMIT = VolatilePolicy("omit", omit=True)
BIND = VolatilePolicy("bind", omit=True, pin=True, rebind=True)

POLICIES = {one.name: one for one in (BIND, OMIT, VERBATIM)}
"""Those that can be asked for by name."""
