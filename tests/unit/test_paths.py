"""The state directory: private, ours, and secrets that are made once."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxd import instance, mounts
from mlxd.paths import (
    admin_token,
    harden_process,
    open_state_dir,
    read_private,
    resolve_state_dir,
    secret_key,
    write_private,
)
from mlxd.start_errors import UnsafeStateDir


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_flag_beats_environment_beats_platform(tmp_path, monkeypatch):
    assert resolve_state_dir("/a/b", {"MLXD_STATE_DIR": "/c"}) == Path("/a/b")
    assert resolve_state_dir(None, {"MLXD_STATE_DIR": "/c/../d"}) == Path("/d")
    assert resolve_state_dir(None, {"MLXD_STATE_DIR": ""}).name == "mlxd"
    monkeypatch.chdir(tmp_path)
    assert resolve_state_dir("here", {}) == tmp_path / "here"


def test_directory_and_files_are_ours_alone_whatever_the_umask(tmp_path):
    code = (
        "import os, sys; os.umask(0)\n"
        "from pathlib import Path\n"
        "from mlxd.paths import *\n"
        "harden_process(); state = open_state_dir(Path(sys.argv[1])); admin_token(state); secret_key(state)\n"
        "import resource; assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a" / "b")], check=True)
    root = tmp_path / "a" / "b"
    assert mode(root) == mode(root.parent) == 0o700
    assert {path.name: mode(path) for path in root.iterdir()} == {"admin.token": 0o600, "secret.key": 0o600}


@pytest.mark.parametrize("bits", [0o701, 0o710, 0o720, 0o750, 0o755, 0o777])
def test_a_looser_directory_is_refused_with_a_cure(bits, tmp_path):
    tmp_path.chmod(bits)
    with pytest.raises(UnsafeStateDir) as refused:
        open_state_dir(tmp_path)
    assert f"{bits:o}" in refused.value.message and f"chmod 700 {tmp_path}" in refused.value.cure
    assert mode(tmp_path) == bits  # refused, not repaired
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_foreign_owner_is_refused(tmp_path):
    root = tmp_path / "theirs"
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(UnsafeStateDir, match="12345"):
        open_state_dir(root)


def test_links_and_files_are_not_taken_for_the_directory(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(UnsafeStateDir, match=name):
            open_state_dir(tmp_path / name)


@pytest.mark.parametrize("make", [admin_token, secret_key])
def test_secrets_are_made_once_and_differ_between_directories(make, state, tmp_path):
    first = make(state)
    assert make(state) == first
    assert make(open_state_dir(tmp_path / "other")) != first
    assert len(first) >= 43  # 256 bits in base64


@pytest.mark.parametrize("content", ["", "short", "mlxd_admin_"])
def test_a_damaged_token_is_named_not_used(content, state):
    write_private(state.admin_token, content)
    with pytest.raises(UnsafeStateDir, match=r"admin\.token"):
        admin_token(state)


def test_ten_starters_agree_on_one_token(state):
    code = "import sys, pathlib; from mlxd.paths import *; print(admin_token(StateDir(pathlib.Path(sys.argv[1]))))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(state.root)], stdout=subprocess.PIPE) for _ in range(10)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [path.name for path in state.root.iterdir()] == ["admin.token"]


def test_private_files_refuse_links_and_looser_modes(state, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("x" * 60)
    victim.chmod(0o600)
    state.admin_token.symlink_to(victim)
    with pytest.raises(UnsafeStateDir):
        admin_token(state)
    state.admin_token.unlink()
    admin_token(state)
    state.admin_token.chmod(0o644)
    with pytest.raises(UnsafeStateDir, match="644"):
        admin_token(state)


def test_a_fifo_in_place_of_a_secret_does_not_hang(state):
    os.mkfifo(state.admin_token, 0o600)
    with pytest.raises(UnsafeStateDir, match="not a file"):
        admin_token(state)


def test_replacing_writes_all_or_nothing(state):
    write_private(state.daemon, "old")
    write_private(state.daemon, "new")
    assert read_private(state.daemon) == "new"
    assert [path.name for path in state.root.iterdir()] == ["daemon.json"]


# --- disks ------------------------------------------------------------------------------------------------------

LINUX = r"""/dev/vda1 / ext4 rw 0 0
srv:/x /home nfs4 rw 0 0
/dev/sdb1 /media/my\040stick vfat rw 0 0
/dev/vda2 /home/local ext4 rw 0 0
"""
MACOS = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)
//u@nas/share on /Volumes/My Share (smbfs, nodev, nosuid)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var", "ext4"),
        ("/home/a", "nfs4"),
        ("/home/local/b", "ext4"),
        ("/media/my stick/c", "vfat"),
        ("/homes", "ext4"),
    ],
)
def test_the_nearest_mount_decides(path, kind):
    assert mounts.kind_of_disk(Path(path), mounts.parse_mounts(LINUX)) == kind


def test_macos_mounts_are_read():
    table = mounts.parse_mount_command(MACOS)
    assert mounts.kind_of_disk(Path("/Volumes/My Share/x"), table) == "smbfs"
    assert mounts.kind_of_disk(Path("/System/Volumes/Data/Users"), table) == "apfs"


@pytest.mark.parametrize("kind", sorted(mounts.REFUSED))
def test_a_disk_without_locks_or_permissions_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "_mounted", lambda: [("/", "ext4"), (str(tmp_path), kind)])
    with pytest.raises(UnsafeStateDir, match="lies on"):
        open_state_dir(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["Library/Mobile Documents", "library/mobile documents", "Library/CloudStorage/x"])
def test_a_synchronised_folder_is_refused(folder, tmp_path):
    with pytest.raises(UnsafeStateDir, match="cloud"):
        open_state_dir(tmp_path / folder / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_can_only_be_read_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UnsafeStateDir) as refused:
        open_state_dir(tmp_path)
    assert "chmod 700" in refused.value.cure
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(UnsafeStateDir, match="only be read") as refused:
        open_state_dir(tmp_path)
    assert "chmod" not in refused.value.cure


@pytest.mark.parametrize(("number", "cure"), [(errno.ENOSPC, "df -i"), (errno.EROFS, "mount"), (errno.ELOOP, "rm ")])
def test_a_lock_that_cannot_be_made_says_what_it_lacks(number, cure, state, monkeypatch):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UnsafeStateDir, match=r"mlxd\.lock") as told, instance.claim(state):
        pass
    assert cure in told.value.cure


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_no_file_gets_the_number_of_a_closed_standard_stream(closed, tmp_path):
    code = (
        "import os, sys\n"
        "for number in sys.argv[1]: os.close(int(number))\n"
        "from pathlib import Path; from mlxd.paths import harden_process; harden_process()\n"
        "os._exit(os.open(sys.argv[2], os.O_CREAT | os.O_RDWR))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, closed, str(tmp_path / "file")], check=False)
    assert ended.returncode > 2


def test_hardening_is_idempotent():
    old = os.umask(0o077)
    try:
        harden_process()
        harden_process()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
