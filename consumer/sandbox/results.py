"""Make up the result of a job, in the documented shape of its function.

Five families are known (facts/iproduction.md#result-families); by function the first three occur: files or segments
inside ``Data``, an array inside ``Data`` (Cover), or ``Details`` without data. The numbers are made up from
the job's id, so that one job always has one result.

Elsewhere: when a job ends, and how (``jobs``); its notification (``notify``).
"""

import json
import posixpath
import random
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

FUNCTIONS: Final = (
    "VideoH2V",
    "VideoDelogo",
    "Cover",
    "VideoClip",
    "ImageH2V",
    "ImageDelogo",
    "CaptionExtraction",
    "VideoDetext",
    "VideoGreenScreenMatting",
    "MusicSegmentDetect",
    "AudioMixing",
    "AudioBeatDetection",
    "ImageCartoonize",
    "AudioQualityAssessment",
    "FaceBeauty",
    "SpeechDenoise",
)
"""The 16 documented FunctionNames; others are taken too."""

# How many files, and with which ending where Output says none. Source: facts/iproduction.md#functions.
_FILES: Final = {
    "VideoClip": (1, "mp4"),
    "CaptionExtraction": (1, "srt"),
    "VideoGreenScreenMatting": (1, "webm"),
    "AudioMixing": (1, "mp3"),
    "AudioBeatDetection": (1, "txt"),
    "ImageCartoonize": (2, "jpg"),
}
_STILLS: Final = 5
_CHORUS: Final = "副歌"


@dataclass(frozen=True, slots=True)
class Files:
    """Names the files that a job writes.

    Attributes:
        input: The job's Input; "" when it had none.
        output: The job's Output template; "" when it had none.
        timestamp_ms: What ``{timestamp}`` becomes.
    """

    input: str
    output: str
    timestamp_ms: int

    def key(self, number: int, ending: str, result_type: str = "main") -> str:
        """Give the object key, without the bucket, of the file with this ordinal (from 1).

        What ``{resultType}`` may become is unknown beyond the value ``main`` of CaptionExtraction's ``track``.

        Source: facts/iproduction.md#output-placeholders.
        """
        source = posixpath.splitext(posixpath.basename(urlsplit(self.input).path))[0] or "input"
        template = urlsplit(self.output).path.lstrip("/") or ("iproduction/{source}-{timestamp}-{sequenceId}." + ending)
        values = {
            "source": source,
            "timestamp": str(self.timestamp_ms),
            "sequenceId": f"{number:05d}",
            "resultType": result_type,
        }
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
        return template

    def keys(self, count: int, ending: str) -> list[str]:
        """Give the keys of ``count`` files; without ``{sequenceId}`` they would be one and the same file."""
        return list(dict.fromkeys(self.key(number, ending) for number in range(1, count + 1)))


def result_of(function: str, files: Files, job_id: str) -> str:
    """Make up the text of QueryIProductionJob's ``Result`` for a job that succeeded.

    Args:
        function: FunctionName, also one that is not documented.
        files: Names of what it wrote.
        job_id: Seeds the numbers.

    Returns:
        JSON; where there is data, ``Data`` is JSON once more.
    """
    chance = random.Random(job_id)  # noqa: S311 - made-up figures
    if function == "Cover":
        stills = _stills(files, chance)
        return compact({"Message": "success", "Data": compact(stills), "Code": "Success"})
    if function == "MusicSegmentDetect":
        return _data({"result": _segments(chance)})
    if function in _FILES:
        count, ending = _FILES[function]
        return _data({"result": [{"file": key} for key in files.keys(count, ending)]})
    # AudioQualityAssessment, FaceBeauty, SpeechDenoise and every name that is not documented come here too:
    # nothing is known of their results, and this is the least that any function answers.
    return compact({"Details": [], "Message": "success", "Code": "Success"})


def has_details(function: str) -> bool:
    """Whether the function's notification carries ``Details: []`` and says ``success``.

    The printed samples differ so, along with the family of the result (INF).
    """
    return function not in _FILES and function != "MusicSegmentDetect"


def failure(code: str, message: str) -> str:
    """Make the ``Result`` of a job that failed. No sample of one exists: the least that any result has."""
    return compact({"Code": code, "Details": [], "Message": message})


def compact(value: Any) -> str:
    """Write JSON as the service does: no spaces, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _data(value: Any) -> str:
    return compact({"Code": "Success", "Message": "Successful.", "Data": compact(value)})


def _stills(files: Files, chance: random.Random) -> list[dict[str, Any]]:
    scores = sorted((chance.uniform(5, 9) for _ in range(_STILLS)), reverse=True)
    return [
        {"Score": score, "Time": str(chance.randrange(24, 36_000) * 1000 / 24), "Url": key}
        for score, key in zip(scores, files.keys(_STILLS, "jpg"), strict=False)
    ]


def _segments(chance: random.Random) -> list[dict[str, Any]]:
    start = 30 + chance.random() * 20
    segments: list[dict[str, Any]] = []
    for _ in range(3):
        end = start + 20 + chance.random() * 10
        segments.append({"start": round(start, 2), "end": round(end, 2), "title": _CHORUS})
        start = end + 15 + chance.random() * 10
    return segments
