"""Files and folders of the store are their owner's alone, and those that others may write are refused."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.errors import ExitCode, StoreUnsafeError
from consumer.store.ledger import Filter
from consumer.store.open import refusal
from consumer.store.sqlite import access
from consumer.store.sqlite.files import FileOwner
from consumer.store_address import parse_store_address
from tests.store.records import record
from tests.stores import ledger_at, operators_at

OTHER_USER = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


async def use(path: Path) -> None:
    """Make a store and use it once."""
    ledger = ledger_at(str(path))
    await ledger.open()
    await ledger.claim("k", 60)
    await ledger.done(record("k"))
    await ledger.close()


@pytest.mark.parametrize("umask", [0, 0o022, 0o277, 0o777], ids=oct)
async def test_the_owners_alone(tmp_path: Path, umask: int) -> None:
    """The file, its companions, its lock and every folder made for it are 0600 and 0700, whatever the umask."""
    path = tmp_path / "a" / "b" / "store.db"
    before = os.umask(umask)
    try:
        ledger = ledger_at(str(path))
        await ledger.open()
        await ledger.claim("k", 60)
        await ledger.done(record("k"))
        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
        await ledger.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


def loosen(place: str, mode: int) -> Callable[[Path], None]:
    return lambda folder: (folder / place).chmod(mode)


def replace_by(place: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replaced(folder: Path) -> None:
        (folder / place).unlink(missing_ok=True)
        make(folder / place)

    return replaced


def link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious", encoding="ascii")
    path.symlink_to(path.parent / "elsewhere")


UNSAFE = [
    pytest.param(loosen(".", 0o777), "folder may be written by every user (mode 0777); run chmod go-w", id="folder"),
    pytest.param(
        loosen(".", 0o1777), "folder may be written by every user (mode 1777); name a file", id="folder like /tmp"
    ),
    pytest.param(loosen(".", 0o775), "folder may be written by the group", id="folder, group"),
    pytest.param(loosen("store.db", 0o666), "store.db may be written by every user (mode 0666)", id="file"),
    pytest.param(loosen("store.db", 0o620), "store.db may be written by the group", id="file, group"),
    pytest.param(loosen("store.db.lock", 0o606), "store.db.lock may be written by every user", id="lock"),
    pytest.param(replace_by("store.db-wal", link), "store.db-wal is not a regular file; remove it", id="log is a link"),
    pytest.param(replace_by("store.db.lock", link), "store.db.lock is not a regular file", id="lock is a link"),
    pytest.param(replace_by("store.db.lock", os.mkfifo), "store.db.lock is not a regular file", id="lock is a pipe"),
    pytest.param(
        replace_by("store.db", Path.mkdir), "store.db is a folder, not a regular file; name", id="a folder in its place"
    ),
]


@pytest.mark.parametrize(("spoil", "problem"), UNSAFE)
async def test_what_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], problem: str
) -> None:
    """Daemon, operators and a look beforehand refuse it with exit code 78 and say what to do; nothing is touched."""
    monkeypatch.setattr(access, "_is_private_group", lambda _gid, _uid: False)
    path = tmp_path / "folder" / "store.db"
    await use(path)
    spoil(path.parent)
    before = sorted(found.name for found in path.parent.iterdir())
    with pytest.raises(StoreUnsafeError) as caught:
        await ledger_at(str(path)).open()
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert refusal(parse_store_address(str(path))) == str(caught.value)
    with pytest.raises(StoreUnsafeError, match="store"):
        await operators_at(str(path)).count_letters(Filter())
    assert sorted(found.name for found in path.parent.iterdir()) == before
    if (path.parent / "elsewhere").exists():
        assert (path.parent / "elsewhere").read_text(encoding="ascii") == "precious"


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o2755])
async def test_what_others_may_only_read_is_not(tmp_path: Path, mode: int) -> None:
    """A folder that others may read or enter is no reason to refuse; nor is a file that is still to be made."""
    path = tmp_path / "folder" / "store.db"
    path.parent.mkdir()
    path.parent.chmod(mode)
    assert refusal(parse_store_address(str(path))) is None
    assert refusal(parse_store_address(str(path.parent / "deeper" / "store.db"))) is None
    await use(path)
    assert refusal(parse_store_address(str(path))) is None
    assert await operators_at(str(path)).count_letters(Filter()) == 0
    assert refusal(parse_store_address("postgresql://u@localhost/d")) is None


async def test_links_to_the_store_are_followed(tmp_path: Path) -> None:
    """The folder of the file counts, not the folder of a link to it."""
    path = tmp_path / "folder" / "store.db"
    await use(path)
    (tmp_path / "link.db").symlink_to(path)
    assert refusal(parse_store_address(str(tmp_path / "link.db"))) is None
    path.parent.chmod(0o777)
    assert "folder may be written by every user" in str(refusal(parse_store_address(str(tmp_path / "link.db"))))


@as_root
async def test_a_store_of_another_user(tmp_path: Path) -> None:
    """The daemon refuses another user's file or folder; root's commands for operators work on it."""
    path = tmp_path / "folder" / "store.db"
    await use(path)
    for place in (path, path.parent):
        os.chown(place, OTHER_USER, -1)
        assert f"{place} belongs to the user {OTHER_USER}, who may change it" in str(
            refusal(parse_store_address(str(path)))
        )
        with pytest.raises(StoreUnsafeError, match="run it as that user"):
            await ledger_at(str(path)).open()
        assert await operators_at(str(path)).count_letters(Filter()) == 0
        os.chown(place, os.geteuid(), -1)
    assert refusal(parse_store_address(str(path))) is None


def test_a_private_group_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of the user's own name without another member may write, as many systems make one for each user."""
    path = tmp_path / "folder" / "store.db"
    path.parent.mkdir()
    path.parent.chmod(0o775)
    gid = path.parent.stat().st_gid
    user = pwd.struct_passwd(("eve", "x", os.geteuid(), gid, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: user)
    for members, name, refused in (
        ([], "eve", False),
        (["eve"], "eve", False),
        (["bob"], "eve", True),
        ([], "all", True),
    ):
        group = grp.struct_group((name, "x", gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _gid, group=group: group)
        assert (refusal(parse_store_address(str(path))) is not None) == refused

    def unknown(_gid: int) -> grp.struct_group:
        raise KeyError

    monkeypatch.setattr(grp, "getgrgid", unknown)
    assert refusal(parse_store_address(str(path))) is not None


@pytest.mark.parametrize(
    "make", [link, lambda path: os.link(path.parent / "precious", path)], ids=["link", "hard link"]
)
def test_the_lock_is_written_through_no_link(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A link in place of the lock is refused when the lock is opened, and its target is not changed."""
    for name in ("precious", "elsewhere"):
        (tmp_path / name).write_text("precious", encoding="ascii")
    make(tmp_path / "store.db.lock")
    with pytest.raises(StoreUnsafeError, match="is a link, or not a file of the daemon's user alone; remove it"):
        FileOwner(tmp_path / "store.db").acquire()
    assert {(tmp_path / name).read_text(encoding="ascii") for name in ("precious", "elsewhere")} == {"precious"}


def test_a_lock_made_under_a_narrow_umask(tmp_path: Path) -> None:
    """The lock is 0600 under any umask, so that the daemon may open it again."""
    before = os.umask(0o777)
    try:
        owner = FileOwner(tmp_path / "store.db")
        owner.acquire()
    finally:
        os.umask(before)
    owner.release()
    assert stat.S_IMODE((tmp_path / "store.db.lock").stat().st_mode) == 0o600


@pytest.mark.parametrize("folder", ["/", "/data", "/var/lib", "/usr/local/share", "/run/user/1000"])
def test_a_folder_of_the_system_is_left_as_it_is(folder: str) -> None:
    """No error advises to change the mode of a folder that other programs use too."""
    assert access._is_shared(Path(folder), 0o777)
    assert not access._is_shared(Path("/var/lib/mns-consumer"), 0o777)
    assert not access._is_shared(Path("/home/films"), 0o777)
