"""Which files are safe: owners, modes, folders on the path, links, shared folders, read-only mounts, pipes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.errors import ExitCode
from consumer.file_safety import UnsafeFileError, problems_of_folder, read

ME, STRANGER, HOSTS = 51234, 55678, 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file ``code.py`` in it, both safe."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("X = 1\n", encoding="utf-8")
    for path in (tmp_path / "a", folder):
        path.chmod(0o755)
    (folder / "code.py").chmod(0o644)
    return folder


@pytest.fixture
def as_me(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process look like a user other than root."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)


def refused(path: Path) -> str:
    """The problem of a file; the check of its folder must report the same."""
    with pytest.raises(UnsafeFileError) as caught:
        read(path)
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert list(problems_of_folder(path.parent)) == list(caught.value.problems)
    return str(caught.value)


def test_a_safe_file_is_read(place: Path) -> None:
    """A file that only root and the process's user can change is safe, and so is a folder of such files."""
    assert read(place / "code.py").data == b"X = 1\n"
    assert problems_of_folder(place) == []


@pytest.mark.parametrize("bit", [0o020, 0o002], ids=["group", "others"])
@pytest.mark.parametrize("level", ["code.py", ".", ".."], ids=["file", "folder", "folder above"])
def test_a_file_that_others_may_write_to_is_refused(place: Path, level: str, bit: int) -> None:
    """Neither the file nor a folder above it may be writable by group or others; the line names it and the remedy."""
    path = (place / level).resolve()
    path.chmod(path.stat().st_mode | bit)
    problem = refused(place / "code.py")
    assert problem.startswith(f"{path}: expected that only root and user ")
    assert f"but group or others may write to it; run `chmod go-w {path}`" in problem


@as_root
@pytest.mark.parametrize("level", ["code.py", ".", ".."], ids=["file", "folder", "folder above"])
@pytest.mark.usefixtures("as_me")
def test_a_file_of_another_user_is_refused(place: Path, level: str) -> None:
    """An owner can change modes at any time, so it must be root or the process's user, for every folder, too."""
    path = (place / level).resolve()
    for owner in (0, ME):
        os.chown(path, owner, 0)
        assert problems_of_folder(place) == []
    os.chown(path, STRANGER, 0)
    problem = refused(place / "code.py")
    assert f"{path}: expected that only root and user {ME} can change it, but it belongs to user {STRANGER}" in problem
    assert f"`chown {ME} {path}`" in problem


@as_root
def test_root_trusts_no_other_user(place: Path) -> None:
    """A process of root does not load code from a folder of another user."""
    os.chown(place, ME, 0)
    assert f"it belongs to user {ME}" in refused(place / "code.py")


@as_root
@pytest.mark.usefixtures("as_me")
def test_a_shared_folder_with_the_sticky_bit_may_be_on_the_path(place: Path) -> None:
    """In a folder like /tmp the owner of the entry counts; a shared folder without the sticky bit is refused."""
    (place.parent).chmod(0o1777)
    assert problems_of_folder(place) == []
    os.chown(place, STRANGER, 0)
    assert f"{place}: " in refused(place / "code.py")
    os.chown(place, ME, 0)
    (place.parent).chmod(0o777)
    assert f"{place.parent}: " in refused(place / "code.py")


def test_the_folder_itself_may_not_be_shared(place: Path) -> None:
    """The sticky bit does not prevent new files, so the folder of the code itself must not be shared."""
    place.chmod(0o1777)
    assert f"{place}: " in str(problems_of_folder(place))


def test_all_problems_are_reported_at_once(place: Path) -> None:
    """Each folder has its own line, so that a tree with wrong modes can be repaired in one go."""
    for path in (place.parent, place, place / "code.py"):
        path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(UnsafeFileError) as caught:
        read(place / "code.py")
    assert [line.partition(": ")[0] for line in caught.value.problems] == [
        str(path) for path in (place.parent, place, place / "code.py")
    ]
    for number in range(30):
        (place / f"more{number}.py").touch()
        (place / f"more{number}.py").chmod(0o666)
    assert len(problems_of_folder(place)) == 20


def test_links_are_followed_and_their_targets_checked(place: Path, tmp_path: Path) -> None:
    """A link's target is checked with its whole path, also behind a second link and for a folder."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "more.py").write_text("", encoding="utf-8")
    (outside / "more.py").chmod(0o644)
    (tmp_path / "second").symlink_to(outside)
    (place / "linked").symlink_to(tmp_path / "second")
    assert problems_of_folder(place) == []
    (outside / "more.py").chmod(0o646)
    assert f"{outside / 'more.py'}: " in str(problems_of_folder(place))
    (outside / "more.py").chmod(0o644)
    outside.chmod(0o757)
    assert f"{outside}: " in str(problems_of_folder(place))
    assert f"{outside}: " in refused_file(place / "linked" / "more.py")


def refused_file(path: Path) -> str:
    with pytest.raises(UnsafeFileError) as caught:
        read(path)
    return str(caught.value)


@as_root
@pytest.mark.usefixtures("as_me")
def test_another_users_link_in_a_shared_folder_is_refused(place: Path, tmp_path: Path) -> None:
    """In a shared folder a link's owner could point it elsewhere, so it must be root or the process's user."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "code.py"
    link.symlink_to(place / "code.py")
    assert read(link).data
    os.chown(link, STRANGER, 0, follow_symlinks=False)
    assert f"{link}: " in refused_file(link)


@pytest.mark.parametrize(
    "name", ["x.so", "x.abi3.so", "x.pyc", "__pycache__/x.cpython-311.pyc", "deep/er/x.py", "x.zip", "x.pth", ".x.py"]
)
def test_every_importable_file_is_checked(place: Path, name: str) -> None:
    """Compiled files, caches and archives are checked like source; a data file is not."""
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(0o646)
    assert f"{path}: " in str(problems_of_folder(place))
    path.rename(path.with_name("data.txt"))
    assert problems_of_folder(place) == []


def test_a_folder_that_links_to_itself_ends(place: Path) -> None:
    """A circle of links is followed once."""
    (place / "again").symlink_to(place)
    (place / "gone").symlink_to(place / "nowhere")
    (place / "loop").symlink_to(place / "loop")
    assert problems_of_folder(place) == []


def test_a_folder_with_too_many_files_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a whole disk must not delay the start for minutes."""
    monkeypatch.setattr("consumer.file_safety._MAX_ENTRIES", 3)
    for number in range(4):
        (place / f"code{number}.py").write_bytes(b"")
    assert "holds more than 3 folders and files of code" in str(problems_of_folder(place))


def test_a_file_that_is_replaced_during_the_check_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checked file must be the opened one."""
    path = place / "code.py"
    opened = os.open

    def replaced(name: Path, flags: int) -> int:
        found = opened(name, flags)
        path.rename(place / "old.py")
        path.write_text("X = 2\n", encoding="utf-8")
        return found

    monkeypatch.setattr(os, "open", replaced)
    assert "was replaced while it was read" in refused_file(path)


@pytest.mark.timeout(10)
def test_a_pipe_of_the_processs_user_is_read(tmp_path: Path) -> None:
    """A pipe such as the shell's ``<(...)`` is read to its end; one that others may write to is refused."""
    end, start = os.pipe()

    def fill() -> None:
        os.write(start, b"slots = 3")
        os.close(start)

    threading.Thread(target=fill).start()
    assert read(Path(f"/dev/fd/{end}")).data == b"slots = 3"
    os.close(end)
    named = tmp_path / "named"
    os.mkfifo(named)
    named.chmod(0o622)
    assert "is not a file" in refused_file(named)


def test_content_is_public_if_every_user_can_read_it(place: Path, tmp_path: Path) -> None:
    """A file is public if every user may read it and pass the folders above it."""
    tmp_path.chmod(0o755)
    assert not read(place / "code.py").public, "pytest's own folder above is closed"
    assert read(Path("/etc/passwd")).public
    (place / "code.py").chmod(0o640)
    assert not read(place / "code.py").public


LOOK = """
import os, sys
from pathlib import Path
from consumer import file_safety
folder = Path(sys.argv[1])
os.geteuid = lambda: 65532
print(file_safety.problems_of_folder(folder) or "safe")
try:
    print("public" if file_safety.read(folder / "code.py").public else "private")
except file_safety.UnsafeFileError as error:
    print(error)
"""
Mounted = Callable[[Path, str], list[str]]


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    """Check a folder through a mount, in a process with its own mounts; gives the output."""
    at = tmp_path / "at"
    at.mkdir()
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root mounts")

    def look(folder: Path, options: str) -> list[str]:
        script = f'mount --bind "$1" "$2" && mount -o remount,bind,{options} "$2" && exec "$3" -c "$4" "$2"'
        argv = ["unshare", "-m", "sh", "-c", script, "sh", str(folder), str(at), sys.executable, LOOK]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=root)
        if "unshare" in done.stderr or "permission denied" in done.stderr.lower():
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return look


def test_the_owner_of_a_read_only_mount_is_trusted(place: Path, mounted: Mounted) -> None:
    """A folder of a user of the host is safe if it is mounted read-only; mounted writable it is not."""
    for path in (place, place / "code.py"):
        os.chown(path, HOSTS, HOSTS)
    assert mounted(place, "ro") == ["safe", "private"]
    assert f"it belongs to user {HOSTS}" in mounted(place, "rw")[0]
    os.chown(place / "code.py", STRANGER, 0)
    assert f"it belongs to user {STRANGER}" in mounted(place, "ro")[0]


def test_a_config_map_is_safe(place: Path, mounted: Mounted) -> None:
    """Its top folder is root's and open, with links into a hidden folder; its files must not be writable by others."""
    (place / "..data_1").mkdir()
    (place / "..data").symlink_to("..data_1")
    (place / "code.py").rename(place / "..data_1" / "code.py")
    (place / "code.py").symlink_to("..data/code.py")
    place.chmod(0o777)
    assert mounted(place, "ro") == ["safe", "private"]
    assert "may write to it" in mounted(place, "rw")[0]
    (place / "code.py").chmod(0o666)
    assert "code.py: " in mounted(place, "ro")[0]
    (place / "code.py").chmod(0o644)
    os.chown(place, HOSTS, HOSTS)
    assert "may write to it" in mounted(place, "ro")[0], "the host's users can write to such a folder"


def test_a_read_only_mount_above_changes_nothing(place: Path, mounted: Mounted) -> None:
    """``ProtectSystem=strict`` shows every folder read-only to the service, while others go on writing to it."""
    (place / "code.py").chmod(0o666)
    inner = place / "inner"
    inner.mkdir()
    inner.chmod(0o777)
    problem = mounted(place, "ro")[0]
    assert "code.py: " in problem or "inner: " in problem
