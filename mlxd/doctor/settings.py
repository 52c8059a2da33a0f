"""Settings: names mlxd does not read, and values that make it slow."""

from __future__ import annotations

from mlxd.config import BY_NAME
from mlxd.config.seed_names import CLIENTS_OWN, VARIABLES
from mlxd.doctor.findings import Finding, Scene, ok, warn

LONG_CONTEXT_TOKENS = 131072


def unknown_names(scene: Scene) -> Finding:
    """`MLXD_*` variables that mean nothing, each with its nearest neighbour."""
    if not scene.warnings:
        return ok("settings", "every MLXD_ variable is known")
    return warn("settings", " ".join(scene.warnings), "`mlxd config` lists every setting.")


def names_of_other_servers(scene: Scene) -> Finding:
    """Variables of servers people come from: set, and without effect here."""
    found = [seed for seed in VARIABLES if seed.name in scene.environ and seed.name not in CLIENTS_OWN]
    if not found:
        return ok("other servers", "no settings of another server are set")
    cures = [f"{seed.name}: {BY_NAME[seed.ours].env if seed.ours else seed.why}" for seed in found]
    return warn(
        "other servers", f"{', '.join(seed.name for seed in found)} set; mlxd does not read them.", "; ".join(cures)
    )


def pace(scene: Scene) -> Finding:
    """Settings that make answers slow or jerky."""
    config, slow = scene.config, []
    if config.prefill_step_tokens > 2048:  # running answers wait for a whole step
        slow.append(f"prefill_step_tokens {config.prefill_step_tokens} makes running answers wait for each step")
    if config.max_context_tokens > LONG_CONTEXT_TOKENS:
        slow.append(f"max_context_tokens {config.max_context_tokens} allows contexts at which generation is slow")
    if config.debug:
        slow.append(f"debug {config.debug} writes many lines")
    if slow:
        return warn("pace", f"{'; '.join(slow)}.", "Leave these at their defaults unless you need them.")
    return ok("pace", "no setting slows generation down; a longer context always does")
