"""What may be done with volatile spans: by a model's setting, or by a request that asks for all of it as sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from inference.conversation.volatile import RULES, Kind, Unit, VolatileRule


@dataclass(frozen=True, slots=True)
class VolatilePolicy:
    """What may be done, by kind. `also_rebind` and `relocate` name rules for which more is wished than by default.
    `keep_tools`: a request without tools that goes on from one that had some may read them still.

    `name` is what the record of a request says was used.
    """

    name: str
    omit: bool = False
    pin: bool = False
    rebind: bool = False
    also_rebind: frozenset[str] = frozenset()
    relocate: frozenset[str] = frozenset()
    keep_tools: bool = False

    @property
    def keeping_tools(self) -> VolatilePolicy:
        """The same, tools kept; as it is where nothing else of a lineage is bound either."""
        if self.keep_tools or not self.rebind:
            return self
        return replace(self, name=f"{self.name}+{KEEP_TOOLS}", keep_tools=True)

    def rebinds(self, rule: VolatileRule) -> bool:
        changes = rule.kind in (Kind.CLOCK, Kind.CONTEXT) and (rule.rebind_safe or rule.name in self.also_rebind)
        return self.rebind and changes


KEEP_TOOLS: Final = "keep:tools"

VERBATIM = VolatilePolicy("verbatim")
OMIT = VolatilePolicy("omit", omit=True)
BIND = VolatilePolicy("bind", omit=True, pin=True, rebind=True)

POLICIES = {one.name: one for one in (BIND, OMIT, VERBATIM)}
"""Those that can be asked for by name."""

BY_RULE: Final = frozenset(
    rule.name for rule in RULES if rule.kind in (Kind.CLOCK, Kind.CONTEXT) and rule.scope.unit is Unit.LINES
)
"""Rules for which more than `bind` can be asked for: text that means something, beside other text of its message."""


def policy_of(wish: str) -> VolatilePolicy | None:
    """The policy that is asked for: one of `POLICIES` by its name, or `bind` with more for some rules, as in
    `bind+rebind:current_time+relocate:git_status`, or for tools, as in `bind+keep:tools`. None: there is none of this
    name."""
    name, *more = wish.split("+")
    if not more or name != BIND.name:
        return POLICIES.get(wish)
    rules: dict[str, set[str]] = {"rebind": set(), "relocate": set()}
    for one in filter(KEEP_TOOLS.__ne__, more):
        what, _, rule = one.partition(":")
        if what not in rules or rule not in BY_RULE:
            return None
        rules[what].add(rule)
    spelled = (f"{what}:{rule}" for what, named in rules.items() for rule in sorted(named))
    found = replace(
        BIND,
        name="+".join((name, *spelled)),
        also_rebind=frozenset(rules["rebind"]),
        relocate=frozenset(rules["relocate"]),
    )
    return found.keeping_tools if KEEP_TOOLS in more else found


KNOWN: Final = (
    f"{', '.join(POLICIES)}, or {BIND.name} followed by +{KEEP_TOOLS}, +rebind:RULE or +relocate:RULE for any of the"
    f" rules {', '.join(sorted(BY_RULE))}"
)
"""What can be asked for, for people."""
