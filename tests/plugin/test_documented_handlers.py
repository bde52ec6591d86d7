"""The handler file of the documentation, unchanged, handles jobs of a sandbox as its comments say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import anyio
import pytest
from pydantic import SecretStr

from consumer.app import App
from consumer.cloud.clients import open_clients
from consumer.config import Settings
from consumer.functions.request import JobRequest
from consumer.ops.metrics import RetryCause
from consumer.plugin.registry import Registry, Sources, discover
from consumer.policy import Reason
from consumer.sandbox import Sandbox
from consumer.store.ledger import Filter
from tests.stores import operators_at

PAGE: Final = Path(__file__).resolve().parents[2] / "consumer" / "docs" / "handlers.md"


def handler_example(folder: Path) -> Registry:
    """The documentation's handler file, found as the daemon finds it."""
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (example,) = (block for block in examples if '@handler("*")' in block)
    folder.mkdir()
    (folder / "films.py").write_text(example, encoding="utf-8")
    return discover(Sources(directory=folder, use_entry_points=False))


async def test_handler_example_handles_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation's handler file, unchanged, handles, rejects and delays jobs of a real queue."""
    monkeypatch.chdir(tmp_path)
    registry = handler_example(tmp_path / "films")
    store = tmp_path / "films.db"
    async with Sandbox.on_free_port(job_s=0.01) as sandbox:
        sandbox.account.ensure("jobs")
        settings = Settings(
            notify_url=(sandbox.notify_url("jobs"),),
            endpoint=sandbox.url,
            access_key_id=SecretStr("sandbox"),
            access_key_secret=SecretStr("sandbox"),
            store=str(store),
            admin=False,
        )
        app = App(settings, registry)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            ids = await submit_examples(settings)
            with anyio.fail_after(12):
                while not await all_seen(app, str(store), len(ids)):  # noqa: ASYNC110 - the store has no event for it
                    await anyio.sleep(0.05)
            app.stop()
    operators = operators_at(str(store))
    done = {job.record.job_id for job in await operators.list_jobs(Filter(), limit=100) if not job.dead}
    assert done == {ids["cover"], ids["failed cover"], ids["choruses"], ids["other"]}
    letters = {letter.letter.job.job_id: letter.letter for letter in await operators.list_letters(Filter(), limit=100)}
    assert {job_id: letter.reason for job_id, letter in letters.items()} == {
        ids["no film"]: Reason.ILL_TYPED,
        ids["no song"]: Reason.REJECTED,
        ids["failed song"]: Reason.JOB_FAILED,
    }
    assert (tmp_path / "choruses" / f"{ids['choruses']}.txt").read_text(encoding="utf-8").strip()


async def submit_examples(settings: Settings) -> dict[str, str]:
    """Submit one job for each way that the example goes; returns what each is for with its JobId."""
    bucket = "oss://demo.oss-cn-hangzhou.aliyuncs.com"
    fails = {"sandbox": {"fail": {"code": "Bad.Input", "message": "no picture"}}}
    empty = {"sandbox": {"result": {"Code": "Success", "Data": json.dumps({"result": []}), "Message": "ok"}}}
    orders = {
        "cover": ("Cover", {}, {"film": 7}),
        "failed cover": ("Cover", fails, {"film": 8}),
        "no film": ("Cover", {}, {"song": 1}),
        "not yet": ("Cover", {}, {"film": 9, "not_before": "2999-01-01T00:00:00Z"}),
        "choruses": ("MusicSegmentDetect", {}, None),
        "no song": ("MusicSegmentDetect", empty, None),
        "failed song": ("MusicSegmentDetect", fails, None),
        "other": ("MusicDemix", {}, "a name that no handler has"),
    }
    ids: dict[str, str] = {}
    lane = settings.queues()[0]
    async with open_clients(lane) as clients:
        for what, (function, params, user_data) in orders.items():
            request = JobRequest(
                function=function,
                params=json.dumps(params),
                input=f"{bucket}/film.mp4",
                output=f"{bucket}/{{source}}-{{sequenceId}}.jpg",
                user_data=user_data if isinstance(user_data, str) or user_data is None else json.dumps(user_data),
                notify_url=str(lane.url),
            )
            answer = await clients.mps.submit(request.parameters())
            ids[what] = answer.job_id
    return ids


async def all_seen(app: App, store: str, most: int) -> bool:
    """Whether every job has ended or was hidden for a retry."""
    labels = {"queue": "jobs", "function": "Cover", "cause": RetryCause.WAITING.value}
    back = app.metrics.registry.get_sample_value("mns_consumer_retries_total", labels)
    return back == 1 and len(await operators_at(store).list_jobs(Filter(), limit=100)) == most - 1
