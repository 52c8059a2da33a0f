"""The list of checks, and one round of them."""

from __future__ import annotations

from collections.abc import Callable

from mlxd.doctor import environment, machine, model_files, network, other_people, python_env, settings
from mlxd.doctor.findings import Finding, Scene, fail

Check = Callable[[Scene], Finding]

CHECKS: tuple[Check, ...] = (
    python_env.versions,
    python_env.python_version,
    python_env.virtual_environment,
    python_env.requirements,
    python_env.packages_are_ours,
    environment.foreign_code,
    python_env.torch,
    machine.metal_library,
    machine.speed,
    machine.memory,
    machine.state_directory,
    model_files.configured_models,
    model_files.fits,
    model_files.came_with_code,
    settings.unknown_names,
    settings.names_of_other_servers,
    settings.pace,
    other_people.who_can_use_it,
    network.port,
    network.daemon,
    network.client_addresses,
)


def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """Every check's finding. A check that breaks is a finding too: one broken check must not hide the others."""
    return [_examine(check, scene) for check in checks]


def _examine(check: Check, scene: Scene) -> Finding:
    try:
        return check(scene)
    except Exception as error:
        name = getattr(check, "__name__", "check").replace("_", " ")
        return fail(
            name, f"The check itself broke: {type(error).__name__}.", "Please report this with `mlxd --version`."
        )
