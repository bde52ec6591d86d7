"""What the sandbox refuses of a submit: what the catalogue knows to be wrong, unless it is lenient."""

from typing import Any

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_mts20140618.models import SubmitIProductionJobRequest
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config

from consumer.sandbox import Sandbox

BUCKET = "oss://bucket.oss-cn-hangzhou.aliyuncs.com"
GOOD = {
    "function_name": "Cover",
    "job_params": "{}",
    "input": f"{BUCKET}/film.mp4",
    "output": f"{BUCKET}/{{source}}-{{sequenceId}}.jpg",
}
WRONG = [
    pytest.param({"input": None}, "Input must be the URL of its input: video, not nothing.", id="no Input"),
    pytest.param({"output": None}, "Output must be", id="no Output"),
    pytest.param({"output": f"{BUCKET}/{{source}}.jpg"}, "Output must be {sequenceId} in it", id="no sequenceId"),
    pytest.param({"output": f"{BUCKET}/{{sequenceID}}.jpg"}, "Output must be {sequenceId}", id="misspelt"),
    pytest.param(
        {"output": "oss://bucket.oss-cn-beijing.aliyuncs.com/{sequenceId}.jpg"},
        "Output must be a bucket in cn-hangzhou",
        id="another region",
    ),
    pytest.param({"job_params": '{"Model": "png"}'}, "JobParams.Model must be what is made", id="a parameter"),
]
INFERRED = [
    pytest.param({"function_name": "MusicDemix"}, id="a function that is not documented"),
    pytest.param({"job_params": '{"mode": "gif"}'}, id="a parameter that is not documented"),
    pytest.param({"input": "oss://bucket/film.mp4"}, id="a form of IMS"),
    pytest.param({"pipeline_id": "p"}, id="a pipeline by another id"),
]


async def submit(sandbox: Sandbox, changed: dict[str, Any]) -> str:
    """Submit by the vendor's client."""
    endpoint = sandbox.url.removeprefix("http://")
    client = Client(Config(access_key_id="sandbox", access_key_secret="sandbox", protocol="http", endpoint=endpoint))
    answer = await client.submit_iproduction_job_async(SubmitIProductionJobRequest(**{**GOOD, **changed}))
    return str(answer.body.job_id)


@pytest.mark.parametrize(("changed", "text"), WRONG)
async def test_a_wrong_request_is_refused(sandbox: Sandbox, changed: dict[str, Any], text: str) -> None:
    """A request that is known to be wrong ends as InvalidParameter with status 400, says why, and makes no job."""
    with pytest.raises(ClientException) as caught:
        await submit(sandbox, changed)
    assert (caught.value.code, caught.value.status_code) == ("InvalidParameter", 400)
    assert text in str(caught.value.message)
    assert len(sandbox.jobs) == 0


async def test_every_problem_is_said(sandbox: Sandbox) -> None:
    """One refusal names all that is wrong."""
    with pytest.raises(ClientException) as caught:
        await submit(sandbox, {"input": None, "output": None})
    assert "Input must be" in str(caught.value.message)
    assert "; Output must be" in str(caught.value.message)


@pytest.mark.parametrize("changed", [pytest.param({}, id="nothing wrong"), *INFERRED])
async def test_what_is_inferred_is_taken(sandbox: Sandbox, changed: dict[str, Any]) -> None:
    """A right request, and one that only an inferred rule refuses, become jobs: a client may force them."""
    assert sandbox.jobs.get(await submit(sandbox, changed)) is not None


@pytest.mark.parametrize(("changed", "text"), WRONG)
async def test_a_lenient_sandbox_takes_all(changed: dict[str, Any], text: str) -> None:
    """With ``lenient`` a wrong request becomes a job, as the real service may do."""
    async with Sandbox.on_free_port(job_s=0, lenient=True) as sandbox:
        assert sandbox.jobs.get(await submit(sandbox, changed)) is not None, text
