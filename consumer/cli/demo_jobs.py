"""The jobs of the demo: one of each documented function, one that fails, and two messages that are none.

Elsewhere: what the sandbox makes of them (``sandbox.jobs``), running them (``cli.demo``).

Source: facts/iproduction.md#functions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumer.cli.function_names import DOCUMENTED

_BUCKET: Final = "oss://demo.oss-cn-hangzhou.aliyuncs.com"
_INPUTS: Final[Mapping[str, tuple[str, str]]] = {
    "ImageH2V": ("poster.jpg", "jpg"),
    "ImageDelogo": ("poster.jpg", "jpg"),
    "ImageCartoonize": ("poster.jpg", "jpg"),
    "Cover": ("film.mp4", "jpg"),
    "CaptionExtraction": ("film.mp4", "srt"),
    "VideoGreenScreenMatting": ("studio.mp4", "webm"),
    "MusicSegmentDetect": ("song.mp3", "json"),
    "AudioMixing": ("voice.mp3", "mp3"),
    "AudioBeatDetection": ("song.mp3", "txt"),
    "AudioQualityAssessment": ("voice.wav", "json"),
    "SpeechDenoise": ("voice.wav", "wav"),
}
_PARAMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "VideoDelogo": {"Logo": [[0.05, 0.05, 0.2, 0.1]]},
    "CaptionExtraction": {"fps": 5, "track": "main"},
    "VideoDetext": {"Text": [[0.1, 0.8, 0.8, 0.15]]},
    "VideoGreenScreenMatting": {"mode": "file"},
    "AudioMixing": {"inputs": [{"file": f"{_BUCKET}/music.mp3"}]},
}


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
    jobs = [_job(function, number, _PARAMS.get(function, {})) for number, function in enumerate(DOCUMENTED, 1)]
    failure = {"code": "InvalidFile", "message": "The input is no video, as the demo ordered."}
    return [*jobs, _job("Cover", len(jobs) + 1, {"sandbox": {"fail": failure}}, fails=True)]


def _job(function: str, number: int, params: Mapping[str, Any], *, fails: bool = False) -> DemoJob:
    source, ending = _INPUTS.get(function, ("film.mp4", "mp4"))
    return DemoJob(
        function=function,
        params=json.dumps(params),
        input=f"{_BUCKET}/{source}",
        output=f"{_BUCKET}/out/{{source}}-{{timestamp}}-{{sequenceId}}.{ending}",
        user_data={"order": number, "who": "demo"},
        fails=fails,
    )


def foreign_body() -> str:
    """A transcoding job's message, which no shipped handler takes."""
    document = {"type": "Transcode", "jobId": "0123456789abcdef0123456789abcdef", "state": "Success"}
    return base64.b64encode(json.dumps(document).encode()).decode()


POISON_BODY: Final = '{"FunctionName":"Cover","JobId":'
"""JSON that breaks off."""
