"""Units, image and manifests before they are deployed: as texts, and by the tools that read them where they are here.

What needs a network or minutes is switched on by ``DEPLOY_TESTS=1``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from consumer.cli.pages import Manifest, text_of
from consumer.config import Settings
from consumer.errors import ExitCode

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = "/opt/mns-consumer/bin/mns-consumer"
UNITS: Final = ("mns-consumer.service", "mns-consumer@.service")
MOST_EXPOSURE: Final = 15
"""Of ``systemd-analyze security``, in tenths."""

each_unit = pytest.mark.parametrize("name", UNITS)
heavy = pytest.mark.skipif(os.environ.get("DEPLOY_TESTS") != "1", reason="DEPLOY_TESTS=1 switches it on")


PATH: Final = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
"""Where tools are: those of the tests' own environment first."""


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool, path=PATH) is None, reason=f"{tool} is not here")


def ran(argv: Sequence[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environ}
    argv = [shutil.which(argv[0], path=PATH) or argv[0], *argv[1:]]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, env=env)


def lines_of(name: str) -> dict[str, list[str]]:
    """The unit's assignments by key."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


@pytest.fixture
def unit(tmp_path: Path, name: str) -> Path:
    """A copy of the unit whose program is one that is here, so that only the unit's own faults are reported."""
    copy = tmp_path / name
    text = (ROOT / "systemd" / name).read_text(encoding="utf-8")
    assert PROGRAM in text
    copy.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return copy


@each_unit
def test_unit_fits_the_daemon(name: str) -> None:
    """The unit's times leave the daemon its own, its code for wrong settings ends it, and process metrics stay."""
    unit = lines_of(name)
    assert unit["Type"] == ["notify"]
    assert seconds(unit["TimeoutStopSec"][0]) > Settings.model_fields["stop_deadline_s"].default + 10
    assert seconds(unit["WatchdogSec"][0]) >= 30
    assert unit["RestartPreventExitStatus"] == [str(int(ExitCode.SETTINGS))]
    assert unit["Restart"] == ["always"]
    assert unit["DynamicUser"] == ["yes"]
    assert "ProcSubset" not in unit


@each_unit
def test_unit_hands_keys_over(name: str) -> None:
    """Files of the credentials folder arrive under the names that the settings are read by."""
    (loaded,) = lines_of(name)["LoadCredential"]
    # systemd puts the folder's name for it, an underscore and the file's name together.
    prefix, _, folder = loaded.partition(":")
    assert f"{prefix}_access_key_id".upper() == "MNS_CONSUMER_ACCESS_KEY_ID"
    assert folder.startswith("/etc/mns-consumer/")


@each_unit
def test_unit_bounds_what_a_handler_can_take(name: str) -> None:
    """No core dump, bounded memory and tasks with room for every slot, one port to listen on, and how to raise them."""
    unit = lines_of(name)
    slots = Settings.model_fields["slots"].default
    assert unit["LimitCORE"] == ["0"]
    assert unit["MemoryMax"] == ["1G"]
    assert int(unit["TasksMax"][0]) >= 4 * slots
    assert unit["SocketBindDeny"] == ["any"]
    (allowed,) = unit["SocketBindAllow"]
    first, _, last = allowed.removeprefix("tcp:").partition("-")
    assert int(first) == Settings.model_fields["admin_port"].default
    # One daemon has one port; several have one each.
    assert bool(last) == ("@" in name)
    text = (ROOT / "systemd" / name).read_text(encoding="utf-8")
    assert re.search(
        rf"`systemctl edit {name.partition('.')[0].rstrip('@')}\S*`:\n#     \[Service\]\n#     MemoryMax=", text
    )


def test_instances_share_nothing() -> None:
    """Settings, keys and state of the template are each instance's own, and the rest is as in the single unit."""
    single, template = (lines_of(name) for name in UNITS)
    own = {key for key in template if template[key] != single.get(key)}
    assert own == {
        *("Description", "ExecStart", "ExecReload", "LoadCredential", "StateDirectory"),
        *("RuntimeDirectory", "SocketBindAllow"),
    }
    assert all("%i" in template[key][0] for key in own - {"SocketBindAllow"})
    assert single.keys() == template.keys()


@needs("systemd-analyze")
@each_unit
def test_systemd_takes_the_unit(unit: Path) -> None:
    """``systemd-analyze verify`` has nothing to say."""
    done = ran(["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit)], unit.parent)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs("systemd-analyze")
@each_unit
def test_unit_is_locked_down(unit: Path) -> None:
    """``systemd-analyze security`` finds an exposure of at most 1.5."""
    threshold = f"--threshold={MOST_EXPOSURE}"
    done = ran(["systemd-analyze", "security", "--offline=true", threshold, "--no-pager", str(unit)], unit.parent)
    assert done.returncode == 0, done.stdout


def test_image_is_as_it_should_be() -> None:
    """Base by argument without a digest, a numeric user, exec-form commands, SIGTERM, the daemon's own health."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert "@sha256" not in text
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .* CMD \["\S+/mns-consumer", "health"\]$', text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["\S+/mns-consumer"\]$', text, re.MULTILINE)
    assert "--require-hashes" in text
    names = set(re.findall(r"MNS_CONSUMER_(\w+)=", text))
    assert names == {"HANDLERS_DIR", "ADMIN_HOST"}
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_image_is_made_of_what_it_copies() -> None:
    """Everything that the image copies gets past .dockerignore, and nothing else does."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        word.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert kept == copied
    assert all((ROOT / name).exists() for name in kept)


@needs("hadolint")
def test_hadolint_takes_the_image() -> None:
    """The linter has nothing to say."""
    done = ran(["hadolint", "Dockerfile"], ROOT)
    assert (done.returncode, done.stdout) == (0, "")


@needs("promtool")
def test_alerts_fire_on_their_faults(tmp_path: Path) -> None:
    """Prometheus takes the rules; each alert fires on its fault and none without one."""
    (tmp_path / "prometheus.yaml").write_text(text_of(Manifest.PROMETHEUS), encoding="utf-8")
    shutil.copy(ROOT / "tests" / "deploy" / "prometheus_test.yaml", tmp_path)
    for argv in (["check", "rules", "prometheus.yaml"], ["test", "rules", "prometheus_test.yaml"]):
        done = ran(["promtool", *argv], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_test() -> None:
    """Each alert is named by the unit tests of the rules at least twice: once silent, once firing."""
    tests = (ROOT / "tests" / "deploy" / "prometheus_test.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", text_of(Manifest.PROMETHEUS))
    assert alerts
    assert [name for name in alerts if len(re.findall(rf"\b{name}\b", tests)) < 2] == []


@needs("kubectl")
def test_kubectl_reads_the_manifests(tmp_path: Path) -> None:
    """Each document is read by kubectl, as far as it goes without a cluster."""
    for kind in (Manifest.KUBERNETES, Manifest.KEDA):
        (tmp_path / f"{kind}.yaml").write_text(text_of(kind), encoding="utf-8")
    (tmp_path / "kustomization.yaml").write_text("resources: [kubernetes.yaml, keda.yaml]\n", encoding="utf-8")
    done = ran(["kubectl", "kustomize", "."], tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    kinds = sorted(re.findall(r"^kind: (\w+)", done.stdout, re.MULTILINE))
    assert kinds == ["ConfigMap", "Deployment", "NetworkPolicy", "ScaledObject", "Secret", "ServiceAccount"]


@heavy
@pytest.mark.timeout(180)
def test_manifests_are_in_the_wheel(tmp_path: Path) -> None:
    """The distribution that is installed has every manifest."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    done = ran([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if "/manifests/" in name}
    assert inside == {
        f"consumer/cli/manifests/{name}" for name in ("kubernetes.yaml", "keda.yaml", "prometheus.yaml", "grafana.json")
    }
