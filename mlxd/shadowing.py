"""Are `inference` and `dashboard` the ones that came with this mlxd? Both names also exist on package indexes."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path

import mlxd
from mlxd.start_errors import ShadowedPackage

SIBLINGS = ("inference", "dashboard")


def shadowed_packages(search_path: list[str] | None = None) -> dict[str, Path | None]:
    """The packages that would be imported from elsewhere, with the place; None is nowhere. Imports nothing."""
    home = Path(mlxd.__file__).resolve().parent.parent
    found = {name: _place(name, search_path) for name in SIBLINGS}
    return {name: place for name, place in found.items() if place is None or place.parent != home}


def refuse_shadowed_packages() -> None:
    """Raises `ShadowedPackage` naming the impostor's place."""
    for name, place in shadowed_packages().items():
        where = f"would be imported from {place}" if place else "is missing"
        raise ShadowedPackage(
            f"mlxd's package `{name}` {where}.",
            cure="Start mlxd from another directory, unset PYTHONPATH, or uninstall the other package.",
        )


def _place(name: str, search_path: list[str] | None) -> Path | None:
    spec = PathFinder.find_spec(name, search_path)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]).resolve() if places else None
