"""What the API was told when the process was put together: defaults, timing, and who the admin is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from inference.conversation.volatile_policy import BIND, KNOWN, policy_of
from mlxd.config import Config
from mlxd.keys import access
from mlxd.keys.key import digest
from mlxd.start_errors import InvalidSetting

__all__ = ["Policy", "current", "digest", "install"]


@dataclass(frozen=True, slots=True)
class Policy:
    """`sampling` holds what the configuration sets, by `SamplingParams` name, plus `max_tokens`.

    `strip_thinking`: reasoning is left out of answers. `volatile` names what is done with drifting text in prompts,
    `volatile_of` the same for models by their ids; `keep_tools`: with `bind`, tools too. `admin_digest` is the SHA-256
    of the admin token; without one nobody is the admin. `require_key`: nobody gets an answer without a key of ours;
    `people` is how many have accounts here where that is why, else 0. What is computed for a key is parted from the
    rest under `secret`.
    """

    sampling: Mapping[str, float | int] = field(default_factory=dict)
    default_thinking: bool = True
    preserve_thinking: bool = True
    strip_thinking: bool = False
    volatile: str = BIND.name
    volatile_of: Mapping[str, str] = field(default_factory=dict)
    keep_tools: bool = False
    keepalive_s: float = 5.0
    admin_digest: bytes | None = None
    require_key: bool = False
    people: int = 0
    secret: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, config: Config, admin_token: str, secret: str = "", *, people: int = 0) -> Self:
        """Raises `InvalidSetting`."""
        return cls(
            sampling=config.sampling_defaults(),
            default_thinking=config.default_thinking,
            preserve_thinking=config.preserve_thinking,
            strip_thinking=config.strip_thinking,
            volatile=config.volatile,
            volatile_of=dict(map(_volatile_of, config.volatile_models)),
            keep_tools=config.keep_tools,
            keepalive_s=config.keepalive_s,
            admin_digest=digest(admin_token),
            require_key=bool(config.require_key or people),
            people=people,
            secret=secret.encode(),
        )


def _volatile_of(setting: str) -> tuple[str, str]:
    """A model's id and a policy, from `ID=POLICY`."""
    model_id, _, name = setting.rpartition("=")
    if not model_id or policy_of(name) is None:
        raise InvalidSetting(f"--volatile-model {setting[:64]!r} is not ID=POLICY.", cure=f"POLICY is one of: {KNOWN}.")
    return model_id, name


_current = Policy()


def install(policy: Policy) -> None:
    """Makes a policy the process's own; the daemon does it once, before it listens."""
    global _current  # noqa: PLW0603  Django's views have no other way to it
    _current = policy
    access.set_admin(policy.admin_digest)


def current() -> Policy:
    return _current
