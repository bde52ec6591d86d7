"""``mns-consumer manifests``: print what runs and watches the daemon elsewhere, ready to be applied.

The files lie beside this module, in ``manifests/``, and are printed as they are: what has to be filled in stands in
capitals, and a daemon that starts with it unchanged says which setting is wrong.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Final

import typer


class Manifest(StrEnum):
    """What can be printed."""

    KUBERNETES = "kubernetes"
    KEDA = "keda"
    PROMETHEUS = "prometheus"
    GRAFANA = "grafana"


_FILES: Final = {
    Manifest.KUBERNETES: "kubernetes.yaml",
    Manifest.KEDA: "keda.yaml",
    Manifest.PROMETHEUS: "prometheus.yaml",
    Manifest.GRAFANA: "grafana.json",
}


def text_of(kind: Manifest) -> str:
    """One manifest, as it is printed."""
    return (files("consumer.cli") / "manifests" / _FILES[kind]).read_text(encoding="utf-8")


def manifests(
    kind: Annotated[Manifest, typer.Argument(help="kubernetes, keda, prometheus or grafana.", show_default=False)],
) -> None:
    """Print a manifest for Kubernetes, KEDA, Prometheus or Grafana.

    Example: mns-consumer manifests prometheus > /etc/prometheus/rules.d/mns-consumer.yaml
    """
    sys.stdout.write(text_of(kind))
