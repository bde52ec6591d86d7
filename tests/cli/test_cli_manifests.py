"""manifests: they name only settings and metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from consumer.cli.pages import Manifest, text_of
from consumer.config import Settings, load
from consumer.ops.metrics import Metrics
from consumer.settings_sources import PREFIX
from consumer.store_address import parse_store_address

Cli = Callable[..., Any]
CATALOGUE: Final = {info.name: info for info in Metrics().catalogue}
SERIES: Final = {
    **{name: {*info.labels} for name, info in CATALOGUE.items() if info.type != "histogram"},
    **{
        f"{name}_{part}": {*info.labels, *({"le"} if part == "bucket" else ())}
        for name, info in CATALOGUE.items()
        if info.type == "histogram"
        for part in ("bucket", "sum", "count")
    },
}
"""Every series of the program's own with its labels."""


def queries() -> Iterator[tuple[str, str]]:
    """Each query of each manifest, with its place."""
    board = json.loads(text_of(Manifest.GRAFANA))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"grafana: {panel['title']} {target['refId']}", target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield f"grafana: variable {variable['name']}", variable["query"]["query"]
    rules = text_of(Manifest.PROMETHEUS)
    for name, expression in re.findall(r"- alert: (\w+)\n +expr: >-\n +(.+)", rules):
        yield f"prometheus: {name}", expression
    (asked,) = re.findall(r"query: (.+)", text_of(Manifest.KEDA))
    yield "keda", asked


QUERIES: Final = dict(queries())


@pytest.mark.parametrize("kind", list(Manifest))
def test_it_is_printed_as_it_lies_there(cli: Cli, kind: Manifest) -> None:
    """Each manifest is printed, whole, and nothing else."""
    ran = cli("manifests", kind.value)
    assert (ran.code, ran.out, ran.err) == (0, text_of(kind), "")
    assert ran.out.endswith("\n")


def test_an_unknown_one(cli: Cli) -> None:
    """An unknown name is a wrong command line, and the known ones are listed."""
    ran = cli("manifests", "nomad")
    assert ran.code == 2
    assert all(kind in ran.err for kind in Manifest)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_queries_name_what_exists(query: str) -> None:
    """Each query names metrics of the catalogue, and selects by labels that they have."""
    found = re.findall(r"(mns_consumer_\w+)(?:\{([^}]*)\})?", query)
    assert found
    for name, selectors in found:
        assert name in SERIES
        assert set(re.findall(r"(\w+)[=!]~?\"", selectors)) <= SERIES[name]
    grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")}
    assert grouped <= {label for name, _ in found for label in SERIES[name]}


def test_every_alert_is_read() -> None:
    """The queries above are those of all alerts, not of some."""
    assert len([name for name in QUERIES if name.startswith("prometheus")]) == text_of(Manifest.PROMETHEUS).count(
        "alert:"
    )


def test_every_alert_has_its_chapter_of_the_runbook(cli: Cli) -> None:
    """Each alert names the command that prints its chapter of the runbook, and each chapter is that of an alert."""
    rules = text_of(Manifest.PROMETHEUS)
    alerts = re.findall(r"- alert: (\w+)", rules)
    commands = re.findall(r"^          runbook: 'mns-consumer (.+)'$", rules, re.MULTILINE)
    assert commands == [f"docs runbook#{alert}" for alert in alerts]
    chapters = re.findall(r"^## (\w+)$", cli("docs", "runbook").out, re.MULTILINE)
    assert sorted(chapters) == sorted(alerts)
    for alert, command in zip(alerts, commands, strict=True):
        assert cli(*command.split()).out.startswith(f"## {alert}\n")


def test_the_dashboard_is_laid_out() -> None:
    """Panels have numbers of their own, and none lies on another."""
    panels = json.loads(text_of(Manifest.GRAFANA))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} <= set(range(24))


def mounted(secret: dict[str, str], folder: Path) -> None:
    """A Secret as Kubernetes mounts it: links to a folder of the day, whose files only the group may read."""
    data = folder / "..2026_11_26_08_48_00.1"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, value in secret.items():
        (data / name).write_text(value, encoding="utf-8")
        (data / name).chmod(0o440)
        (folder / name).symlink_to(f"..data/{name}")


def test_the_deployment_gives_secrets_as_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each key of the Secret is a setting's file in the mounted folder; none is in the environment."""
    text = text_of(Manifest.KUBERNETES)
    secret: dict[str, str] = dict(re.findall(r'^  (mns_consumer_\w+): "(.*)"$', text, re.MULTILINE))
    assert secret.keys() == {f"{PREFIX}{name}".lower() for name in ("access_key_id", "access_key_secret", "store")}
    (folder,) = re.findall(r"\{name: CREDENTIALS_DIRECTORY, value: (\S+)\}", text)
    assert f"{{name: credentials, mountPath: {folder}, readOnly: true}}" in text
    assert "{name: credentials, secret: {secretName: mns-consumer, defaultMode: 0400}}" in text
    # Files of root's, so the group is what the daemon reads them by.
    assert re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", text) == ["65532"] * 3
    assert "secretRef" not in text
    mounted(secret, tmp_path / "credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    settings = load({})
    assert settings.access_key_id is not None
    assert settings.access_key_secret is not None
    assert settings.access_key_id.get_secret_value() == "ACCESS_KEY_ID"
    assert settings.access_key_secret.get_secret_value() == "ACCESS_KEY_SECRET"
    assert settings.store == parse_store_address(secret["mns_consumer_store"])


def test_the_network_policy_lets_through_what_is_needed() -> None:
    """In: the admin port. Out: names, the services, the store. It selects the Deployment's pods."""
    text = text_of(Manifest.KUBERNETES)
    policy = text[text.index("kind: NetworkPolicy") :]
    inwards, outwards = policy[policy.index("  ingress:") :].split("  egress:")
    rule = re.compile(r"^ +- \{protocol: (\w+), port: (\d+)\}$", re.MULTILINE)
    assert rule.findall(inwards) == [("TCP", re.findall(r"containerPort: (\d+)", text)[0])]
    assert set(rule.findall(outwards)) == {("UDP", "53"), ("TCP", "53"), ("TCP", "443"), ("TCP", "5432")}
    assert "  policyTypes: [Ingress, Egress]\n" in policy
    pods = "    matchLabels: {app.kubernetes.io/name: mns-consumer}\n"
    assert f"  podSelector:\n{pods}" in policy
    assert f"  selector:\n{pods}" in text


def test_the_deployment_sets_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Deployment sets are settings; filled in they are good, and the pod lives longer than its stop takes."""
    text = text_of(Manifest.KUBERNETES)
    values: dict[str, str] = dict(re.findall(rf'^  ({PREFIX}\w+): "(.*)"$', text, re.MULTILINE))
    assert {name.removeprefix(PREFIX).lower() for name in values} <= set(Settings.model_fields)
    values[f"{PREFIX}NOTIFY_URL"] = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/jobs"
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = load({})
    grace = re.findall(r"terminationGracePeriodSeconds: (\d+)", text)
    assert [int(seconds) > settings.stop_deadline_s + 10 for seconds in grace] == [True]


def test_the_deployment_is_locked_down() -> None:
    """Probes ask for what is served; nothing is written but to volumes, no process is root."""
    text = text_of(Manifest.KUBERNETES)
    assert re.findall(r"path: (/\w+), port: admin", text) == ["/startupz", "/livez", "/readyz"]
    for line in (
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        'capabilities: {drop: ["ALL"]}',
        "automountServiceAccountToken: false",
    ):
        assert line in text
