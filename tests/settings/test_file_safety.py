"""Which files are trusted: owners, modes, the way to a file, links, shared folders, read-only mounts, pipes."""

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
    """This process passes for another user than root."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)


def refused(path: Path) -> str:
    """The problem, which the file and the folder that it stands in must both have."""
    with pytest.raises(UnsafeFileError) as caught:
        read(path)
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert list(problems_of_folder(path.parent)) == list(caught.value.problems)
    return str(caught.value)


def test_a_safe_file_is_read(place: Path) -> None:
    """What only root and the process's own user can change is read, and so is a folder of such files."""
    assert read(place / "code.py").data == b"X = 1\n"
    assert problems_of_folder(place) == []


@pytest.mark.parametrize("bit", [0o020, 0o002], ids=["group", "others"])
@pytest.mark.parametrize("level", ["code.py", ".", ".."], ids=["file", "folder", "folder above"])
def test_what_others_may_write_to_is_refused(place: Path, level: str, bit: int) -> None:
    """The file and every folder above it must be closed to group and others; the line names it and what to run."""
    path = (place / level).resolve()
    path.chmod(path.stat().st_mode | bit)
    told = refused(place / "code.py")
    assert told.startswith(f"{path}: expected that only root and user ")
    assert f"but group or others may write to it; run `chmod go-w {path}`" in told


@as_root
@pytest.mark.parametrize("level", ["code.py", ".", ".."], ids=["file", "folder", "folder above"])
@pytest.mark.usefixtures("as_me")
def test_what_belongs_to_another_user_is_refused(place: Path, level: str) -> None:
    """The owner can change modes at any time: it must be root or the process's own user, on every level."""
    path = (place / level).resolve()
    for owner in (0, ME):
        os.chown(path, owner, 0)
        assert problems_of_folder(place) == []
    os.chown(path, STRANGER, 0)
    told = refused(place / "code.py")
    assert f"{path}: expected that only root and user {ME} can change it, but it belongs to user {STRANGER}" in told
    assert f"`chown {ME} {path}`" in told


@as_root
def test_root_trusts_no_other_user(place: Path) -> None:
    """A process of root's does not take code from a folder of a user's."""
    os.chown(place, ME, 0)
    assert f"it belongs to user {ME}" in refused(place / "code.py")


@as_root
@pytest.mark.usefixtures("as_me")
def test_a_shared_folder_with_the_sticky_bit_may_be_on_the_way(place: Path) -> None:
    """Under a folder like /tmp it is the owner of what stands in it that counts; an open one without the bit is out."""
    (place.parent).chmod(0o1777)
    assert problems_of_folder(place) == []
    os.chown(place, STRANGER, 0)
    assert f"{place}: " in refused(place / "code.py")
    os.chown(place, ME, 0)
    (place.parent).chmod(0o777)
    assert f"{place.parent}: " in refused(place / "code.py")


def test_the_folder_itself_may_not_be_shared(place: Path) -> None:
    """The sticky bit keeps nobody from adding a file: the folder of the code must be closed."""
    place.chmod(0o1777)
    assert f"{place}: " in str(problems_of_folder(place))


def test_every_problem_is_told_at_once(place: Path) -> None:
    """Where a umask left a whole tree open, each level has its line, so that one round of mending is enough."""
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
    """A link's target counts, with the whole way to it, also behind a second link and for a folder."""
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
def test_a_strangers_link_in_a_shared_folder_is_refused(place: Path, tmp_path: Path) -> None:
    """Where everybody may make entries a link must be our own: its owner could let it point elsewhere."""
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
def test_whatever_could_be_imported_is_checked(place: Path, name: str) -> None:
    """Compiled files, caches and archives count like source; a file of data does not."""
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(0o646)
    assert f"{path}: " in str(problems_of_folder(place))
    path.rename(path.with_name("data.txt"))
    assert problems_of_folder(place) == []


def test_a_folder_that_links_to_itself_ends(place: Path) -> None:
    """A circle of links is looked at once."""
    (place / "again").symlink_to(place)
    (place / "gone").symlink_to(place / "nowhere")
    (place / "loop").symlink_to(place / "loop")
    assert problems_of_folder(place) == []


def test_a_folder_without_end_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a whole disk does not make the start last for minutes."""
    monkeypatch.setattr("consumer.file_safety._MAX_ENTRIES", 3)
    for number in range(4):
        (place / f"code{number}.py").write_bytes(b"")
    assert "holds more than 3 folders and files of code" in str(problems_of_folder(place))


def test_a_file_that_is_replaced_meanwhile_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was checked must be the one that was opened."""
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
def test_a_pipe_is_read_when_it_is_our_own(tmp_path: Path) -> None:
    """A pipe of ours, as the shell's ``<(...)``, is read to its end; one that others may write to is refused."""
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


def test_who_can_read_it_is_told(place: Path, tmp_path: Path) -> None:
    """A file is public when all may read it and all may pass the folders above it."""
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
    """What is said of a folder that is mounted at another place, by a process with mounts of its own."""
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


def test_a_read_only_mount_vouches_for_its_owner(place: Path, mounted: Mounted) -> None:
    """A folder of the host's user, mounted read-only for the daemon, is taken; mounted writable it is not."""
    for path in (place, place / "code.py"):
        os.chown(path, HOSTS, HOSTS)
    assert mounted(place, "ro") == ["safe", "private"]
    assert f"it belongs to user {HOSTS}" in mounted(place, "rw")[0]
    os.chown(place / "code.py", STRANGER, 0)
    assert f"it belongs to user {STRANGER}" in mounted(place, "ro")[0]


def test_a_config_map_is_taken(place: Path, mounted: Mounted) -> None:
    """Kubernetes' volume has an open top folder of root's and links into a hidden one; its files must be closed."""
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
    assert "may write to it" in mounted(place, "ro")[0], "an open folder of a user's stays open on the host"


def test_a_read_only_mount_above_vouches_for_nothing(place: Path, mounted: Mounted) -> None:
    """``ProtectSystem=strict`` shows every folder read-only to the service, while others go on writing to it."""
    (place / "code.py").chmod(0o666)
    inner = place / "inner"
    inner.mkdir()
    inner.chmod(0o777)
    told = mounted(place, "ro")[0]
    assert "code.py: " in told or "inner: " in told
