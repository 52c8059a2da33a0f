"""How many people have accounts, and what follows from it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxd.api.policy import Policy
from mlxd.banner import start_banner
from mlxd.config import BY_NAME, Config, people
from mlxd.config.addresses import refuse_exposed_host
from mlxd.config.load import load
from mlxd.config.people import count_people, is_person, kept_from_others, owners_of_homes
from mlxd.start_errors import InvalidSetting


def account(uid: int, shell: str = "/bin/bash", home: str = "/") -> pwd.struct_passwd:
    return pwd.struct_passwd((f"u{uid}", "x", uid, uid, "", home, shell))


@pytest.mark.parametrize(
    ("one", "counts"),
    [
        (account(1000), True),
        (account(59_999, "/usr/bin/zsh"), True),
        (account(0), False),
        (account(999), False),
        (account(65_534), False),
        (account(1000, "/usr/sbin/nologin"), False),
        (account(1000, "/bin/false"), False),
        (account(1000, home="/nonexistent"), False),
    ],
)
def test_who_is_a_person(one: pwd.struct_passwd, counts: bool) -> None:
    assert is_person(one) is counts


def test_on_a_mac_the_owners_of_homes_are_the_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def entry(uid: int, folder: bool = True) -> Any:
        return SimpleNamespace(
            is_dir=lambda *, follow_symlinks: folder and not follow_symlinks,
            stat=lambda *, follow_symlinks: SimpleNamespace(st_uid=uid),
        )

    shared, guest, me, mine, you, file = *map(entry, (0, 201, 501, 501, 502)), entry(503, folder=False)
    monkeypatch.setattr(people, "USERS", tmp_path / "none")
    assert count_people("darwin") == 0, "a folder that cannot be read is nobody's"
    for homes, count in (([shared, guest, me, mine, file], 1), ([shared, me, you], 2)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", lambda _, homes=homes: homes)
            assert owners_of_homes(tmp_path) == count_people("darwin") == count


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_key_is_required_where_there_are_several_and_nobody_said_otherwise(
    count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(people, "count_people", lambda: count)
    for said in (None, True, False):
        config = Config(state_dir=tmp_path, require_key=said)
        others = kept_from_others(config)
        assert others == (count if said is None and count > 1 else 0)
        required = said if said is not None else count > 1
        assert Policy.of(config, "token", people=others).require_key is required
        banner = start_banner(config, "http://127.0.0.1:8080", ["tiny"], others)
        assert ("mlxd keys add NAME" in banner) is required and ("OPENAI_API_KEY=any" in banner) is not required
        assert ("--no-require-key" in banner) is (f"{count} people" in banner) is (others > 0)


def test_accounts_alone_let_no_other_machine_in(tmp_path: Path) -> None:
    """That takes somebody who says so."""
    with pytest.raises(InvalidSetting, match="require_key"):
        refuse_exposed_host(Config(state_dir=tmp_path, host="0.0.0.0"))


def test_the_switch_may_be_left_to_mlxd_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for written, wanted in (("auto", None), ("on", True), ("0", False)):
        monkeypatch.setenv("MLXD_REQUIRE_KEY", written)
        assert load({}, tmp_path).config.require_key is wanted
    monkeypatch.setenv("MLXD_REQUIRE_KEY", "perhaps")
    with pytest.raises(InvalidSetting):
        load({}, tmp_path)
    assert BY_NAME["require_key"].default_text == "auto"
