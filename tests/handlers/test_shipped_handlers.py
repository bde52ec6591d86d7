"""The shipped handlers: all 16 are found, each in its own file, and each logs one line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue
from structlog.testing import capture_logs
from structlog.typing import EventDict

from consumer.functions.catalogue import find, names
from consumer.plugin.handler import Strength
from consumer.plugin.registry import Registry, Sources, discover
from mns_consumer import Job

FOLDER = Path(__file__).resolve().parents[2] / "handlers"
REGISTRY: Registry = discover(Sources(shipped=True, use_entry_points=False))
TEMPLATE = "oss://b.oss-cn-hangzhou.aliyuncs.com/out/{source}.mp4"
JOB_ID = "39f8e0bc005e4f309379701645f40000"
ONE_FILE: JsonValue = {"result": [{"file": "oss://b/a"}]}
MADE = {"files": 1, "first_url": "oss://b/a"}
NO_DETAILS: JsonValue = {"Details": []}
NAMED_NOTHING = {"details": 0, "written": None, "output": TEMPLATE}
OPEN: JsonValue = {"Details": [], "Grade": 4}
AS_CAME = {"result": '{"Details": [], "Grade": 4}', "output": TEMPLATE}
NO_BEST = {"best_score": None, "best_time_ms": None, "best_url": None}


async def run(function: str, **of_job: Any) -> list[EventDict]:
    """Call the function's handler with one job; returns what it logged."""
    held = REGISTRY.handlers[function]
    assert held.is_async
    ended: dict[str, Any] = {"state": "Success", "failed": False, "code": "Success", "message": "Successful."}
    job: Job = Job(function=function, job_id=JOB_ID, user_data=None, output=TEMPLATE, **(ended | of_job))
    with capture_logs() as lines:
        called: Any = held.function(job)
        assert await called is None
    return list(lines)


def test_each_documented_function_has_a_handler() -> None:
    """There is one async handler for each function of the catalogue, which asks for its result model, and no other."""
    assert set(REGISTRY.handlers) == set(names())
    assert {held.strength for held in REGISTRY.handlers.values()} == {Strength.SHIPPED}
    assert REGISTRY.empty == ()
    for name, held in REGISTRY.handlers.items():
        function = find(name)
        assert function is not None
        assert held.result is not None
        assert held.result.annotation is function.result
        assert held.user_data is None


def test_each_function_has_its_own_file() -> None:
    """There are as many files as functions, each named as its function's module and holding that handler only."""
    for name, held in REGISTRY.handlers.items():
        function = find(name)
        assert function is not None
        path = FOLDER / f"{function.result.__module__.rpartition('.')[2]}.py"
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'^@handler\("(\w+)"', text, re.MULTILINE) == [name]
        assert held.origin.startswith(f"{path}:")
    assert len(list(FOLDER.glob("*.py"))) == len(names())


def test_each_file_stands_alone() -> None:
    """A shipped file imports ``mns_consumer`` and structlog alone: a copy of it works."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {name.name for name in node.names} == {"structlog"}, path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                assert node.module in {"mns_consumer", "mns_consumer.functions"}, path


@pytest.mark.parametrize(
    ("function", "data", "event", "fields"),
    [
        pytest.param("AudioBeatDetection", ONE_FILE, "beats detected", MADE, id="beats"),
        pytest.param("AudioMixing", ONE_FILE, "audio mixed", MADE, id="mixing"),
        pytest.param("CaptionExtraction", ONE_FILE, "captions extracted", MADE, id="captions"),
        pytest.param("ImageCartoonize", ONE_FILE, "image cartoonized", MADE, id="cartoon"),
        pytest.param("VideoGreenScreenMatting", ONE_FILE, "green screen removed", MADE, id="matting"),
        pytest.param(
            "AudioMixing", {"result": []}, "audio mixed", {"files": 0, "first_url": None}, id="a result without files"
        ),
        pytest.param("VideoClip", ONE_FILE, "video clipped", {**MADE, "spans": 0}, id="clips"),
        pytest.param(
            "VideoClip",
            {"VideoSummaryList": [{"StartTime": "1.0", "EndTime": "4.5"}]},
            "video clipped",
            {"files": 0, "first_url": None, "spans": 1},
            id="places to clip at",
        ),
        pytest.param("VideoH2V", NO_DETAILS, "video turned to portrait", NAMED_NOTHING, id="portrait video"),
        pytest.param("VideoDelogo", NO_DETAILS, "logos removed from video", NAMED_NOTHING, id="video logos"),
        pytest.param("VideoDetext", NO_DETAILS, "text removed from video", NAMED_NOTHING, id="video text"),
        pytest.param("ImageH2V", NO_DETAILS, "image turned to portrait", NAMED_NOTHING, id="portrait image"),
        pytest.param("ImageDelogo", NO_DETAILS, "logos removed from image", NAMED_NOTHING, id="image logos"),
        pytest.param(
            "VideoH2V",
            {"Details": [{"Status": "Success"}, {"Output": "b.mp4"}]},
            "video turned to portrait",
            {"details": 2, "written": "b.mp4", "output": TEMPLATE},
            id="details that name a file",
        ),
        pytest.param("AudioQualityAssessment", OPEN, "audio quality assessed", AS_CAME, id="quality"),
        pytest.param("FaceBeauty", OPEN, "faces beautified", AS_CAME, id="faces"),
        pytest.param("SpeechDenoise", OPEN, "speech denoised", AS_CAME, id="denoise"),
        pytest.param(
            "Cover",
            [
                {"Score": 7.5, "Time": "25942.5", "Url": "oss://b/2"},
                {"Score": "8.25", "Time": "28278.25", "Url": "oss://b/1"},
            ],
            "cover made",
            {"stills": 2, "best_score": 8.25, "best_time_ms": 28278.25, "best_url": "oss://b/1", "output": TEMPLATE},
            id="stills",
        ),
        pytest.param("Cover", NO_DETAILS, "cover made", {"stills": 0, **NO_BEST, "output": TEMPLATE}, id="no stills"),
        pytest.param(
            "MusicSegmentDetect",
            {"result": [{"start": 39.32, "end": 63.85, "title": "副歌"}, {"start": "86.69", "end": "114.45"}]},
            "music segments detected",
            {"segments": 2, "total_s": 52.29, "first_start_s": 39.32, "first_end_s": 63.85},
            id="choruses",
        ),
        pytest.param(
            "MusicSegmentDetect",
            {"result": []},
            "music segments detected",
            {"segments": 0, "total_s": 0, "first_start_s": None, "first_end_s": None},
            id="no chorus",
        ),
    ],
)
async def test_the_line_of_each_handler(
    function: str, data: JsonValue, event: str, fields: dict[str, JsonValue]
) -> None:
    """A successful job is logged in one line: a constant phrase, the JobId, and what the result holds."""
    wanted = REGISTRY.handlers[function].result
    assert wanted is not None
    lines = await run(function, result_or_none=wanted.validate(data))
    assert lines == [{"event": event, "log_level": "info", "job_id": JOB_ID, **fields}]


@pytest.mark.parametrize("function", names())
async def test_a_failed_job_is_logged(function: str) -> None:
    """A failed job is logged as one warning with MPS's code and message, and the handler returns."""
    lines = await run(function, state="Fail", failed=True, code="InvalidParameter", message="the file is no video")
    assert lines == [
        {
            "event": "job failed; it is only logged",
            "log_level": "warning",
            "function": function,
            "job_id": JOB_ID,
            "code": "InvalidParameter",
            "message": "the file is no video",
        }
    ]
