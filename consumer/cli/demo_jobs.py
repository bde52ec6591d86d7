"""The jobs of the demo: one of each documented function, one that fails, and two messages that are none.

What each is made of is in the catalogue (``functions.catalogue.Sample``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumer.functions.catalogue import Function, documented

_BUCKET: Final = "oss://demo.oss-cn-hangzhou.aliyuncs.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoJob:
    """One job to submit.

    Args:
        function: FunctionName.
        params: JobParams.
        input: Input.
        output: Output, with placeholders.
        user_data: What UserData holds, as JSON.
        fails: Whether it is ordered to fail.
    """

    function: str
    params: str
    input: str
    output: str
    user_data: Mapping[str, Any]
    fails: bool = False


def demo_jobs() -> list[DemoJob]:
    """One job of each documented function in their order, and last one that fails."""
    functions = documented()
    jobs = [_job(function, number, function.sample.params) for number, function in enumerate(functions, 1)]
    failure = {"code": "InvalidFile", "message": "The input is no video, as the demo ordered."}
    cover = next(function for function in functions if function.name == "Cover")
    return [*jobs, _job(cover, len(jobs) + 1, {"sandbox": {"fail": failure}}, fails=True)]


def _job(function: Function, number: int, params: Mapping[str, Any], *, fails: bool = False) -> DemoJob:
    return DemoJob(
        function=function.name,
        params=json.dumps(params),
        input=f"{_BUCKET}/{function.sample.input}",
        output=f"{_BUCKET}/out/{{source}}-{{timestamp}}-{{sequenceId}}.{function.sample.ending}",
        user_data={"order": number, "who": "demo"},
        fails=fails,
    )


def foreign_body() -> str:
    """A transcoding job's message, which no shipped handler takes."""
    document = {"type": "Transcode", "jobId": "0123456789abcdef0123456789abcdef", "state": "Success"}
    return base64.b64encode(json.dumps(document).encode()).decode()


POISON_BODY: Final = '{"FunctionName":"Cover","JobId":'
"""JSON that breaks off."""
