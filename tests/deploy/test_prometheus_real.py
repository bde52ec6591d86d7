"""A Prometheus that scrapes a daemon under load: every query of the dashboard has an answer, no rule is broken.

Switched on by ``DEPLOY_TESTS=1``, as root on Debian, in about a minute.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from consumer.cli.pages import Manifest, text_of
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.process.rig import Process

SCRAPE_S: Final = 1
LOAD_S: Final = 20
"""The gauges of dead letters are read from the store every 15 s."""
HANDLERS: Final = """
import asyncio
import random
from mns_consumer import Job, Reject, Retry, handler
from mns_consumer.functions import AnyResult

@handler("Cover")
async def cover(job: Job) -> None:
    await asyncio.sleep(0.01)

@handler("VideoClip")
async def clip(job: Job) -> None:
    raise Reject("no") if random.random() < 0.5 else Retry("later", after_s=1)

@handler("CaptionExtraction")
async def waits(job: Job) -> None:
    await asyncio.sleep(8)

@handler("VideoH2V")
async def asks(job: Job[AnyResult]) -> None:
    pass
"""

pytestmark = [
    pytest.mark.skipif(os.environ.get("DEPLOY_TESTS") != "1", reason="DEPLOY_TESTS=1 switches it on"),
    pytest.mark.timeout(300),
]


class Prometheus:
    """One that runs.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, what: str, **parameters: str) -> Any:
        address = f"{self._url}/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def is_there(self) -> bool:
        try:
            return bool(self.ask("query", query="vector(1)")["result"])
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def prometheus(tmp_path: Path, tools: Callable[..., None]) -> Iterator[tuple[Prometheus, int]]:
    """One that runs, and the port that it scrapes."""
    tools("prometheus", "promtool")
    port, target = free_port(), free_port()
    (tmp_path / "rules.yaml").write_text(text_of(Manifest.PROMETHEUS), encoding="utf-8")
    (tmp_path / "prometheus.yaml").write_text(
        f"global: {{scrape_interval: {SCRAPE_S}s, evaluation_interval: {SCRAPE_S}s}}\n"
        "rule_files: [rules.yaml]\n"
        f"scrape_configs: [{{job_name: films, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n",
        encoding="utf-8",
    )
    flags = ("--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *flags], cwd=tmp_path, stdout=log, stderr=log)
    try:
        running, end = Prometheus(port), time.monotonic() + 30
        while not running.is_there():
            assert time.monotonic() < end, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.2)
        yield running, target
    finally:
        process.terminate()
        process.wait(30)


async def loaded(sandbox: Sandbox, seconds: float) -> None:
    """Send messages of each outcome for that time."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for function in ("Cover", "Cover", "VideoClip", "CaptionExtraction", "VideoH2V"):
            number += 1
            sandbox.put(QUEUE, body(f"{number:032x}", function).decode())
        sandbox.put(QUEUE, "no notification")
        await anyio.sleep(0.1)


async def test_every_query_has_an_answer(tmp_path: Path, prometheus: tuple[Prometheus, int]) -> None:
    """Each panel shows data, each rule is evaluated, and promtool takes what is scraped."""
    running, port = prometheus
    dashboard = json.loads(text_of(Manifest.GRAFANA))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert queries
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure(QUEUE)
        flags = ("lease_step_s=10", "slots=200", f"admin_port={port}")
        daemon = Process(sandbox, tmp_path, *flags, handlers=HANDLERS)
        try:
            await daemon.logged('"event":"started"')
            await loaded(sandbox, LOAD_S)
            empty = [query for query in queries if not await anyio.to_thread.run_sync(answer, running, query)]
            rules = await anyio.to_thread.run_sync(running.ask, "rules")
            scraped = await anyio.to_thread.run_sync(scrape, port)
        finally:
            daemon.kill()
    assert empty == []
    evaluated = [rule for group in rules["groups"] for rule in group["rules"]]
    assert evaluated
    assert [rule["name"] for rule in evaluated if rule["health"] != "ok"] == []
    checked = await anyio.to_thread.run_sync(taken_by_promtool, scraped)
    assert checked == (0, "")


def taken_by_promtool(scraped: bytes) -> tuple[int, str]:
    """The exit code and the output of ``promtool check metrics``."""
    done = subprocess.run(["promtool", "check", "metrics"], input=scraped, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def answer(running: Prometheus, query: str) -> list[Any]:
    """What a panel's query gives, with Grafana's variables filled in."""
    filled = query.replace("$__rate_interval", f"{10 * SCRAPE_S}s").replace("$queue", ".*")
    found: list[Any] = running.ask("query", query=filled)["result"]
    return found


def scrape(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        scraped: bytes = answer.read()
    return scraped
