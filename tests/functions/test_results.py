"""The result models: documented samples, both spellings, numbers as strings, bad data, summaries."""

from __future__ import annotations

import json
from typing import Protocol, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue, ValidationError

from consumer.functions.catalogue import find, names
from consumer.message.result import read_result
from consumer.sandbox.jobs import SandboxJob
from mns_consumer.functions import AudioQualityAssessmentResult, CoverResult, ImageCartoonizeResult

OUTPUT = "oss://b.oss-cn-hangzhou.aliyuncs.com/out/{source}-{timestamp}-{sequenceId}.x"
BASE = "oss://b.oss-cn-hangzhou.aliyuncs.com"

FILE_MAKERS = (
    "VideoClip",
    "CaptionExtraction",
    "VideoGreenScreenMatting",
    "AudioMixing",
    "AudioBeatDetection",
    "ImageCartoonize",
)
DETAILS_ONLY = ("VideoH2V", "VideoDelogo", "VideoDetext", "ImageH2V", "ImageDelogo")
UNKNOWN = ("AudioQualityAssessment", "FaceBeauty", "SpeechDenoise")

STILLS = (
    r'{"Message":"success","Data":"[{\"Score\":8.270855992569906,\"Time\":\"28278.25\",\"Url\":\"cover/test-00001.jpg\"}'
    r",{\"Score\":7.474117489692728,\"Time\":\"25942.583333333332\",\"Url\":\"cover/test-00002.jpg\"}]"
    r'","Code":"Success"}'
)
CHORUSES = (
    r'{"Code":"Success","Data":"{\"result\":[{\"start\":39.32,\"end\":63.85,\"title\":\"副歌\"}'
    r",{\"start\":86.69,\"end\":114.45,\"title\":\"副歌\"},{\"start\":135.75,\"end\":160.27,\"title\":\"副歌\"}]}"
    r'","Message":"Successful."}'
)
CARTOONS = (
    r'{"Code":"Success","Data":"{\"result\":[{\"file\":\"iproduction/test-result.jpg\"}'
    r',{\"file\":\"iproduction/test-origin.jpg\"}]}","Message":"Successful."}'
)
NO_DETAILS = '{"Details":[],"Message":"success","Code":"Success"}'
ONE_DETAIL = (
    '{"Code":"Success","Details":[{"Status":"Success","Input":"a.mp4","Output":"b.mp4"}],"Message":"Successful."}'
)
SPANS = '{"VideoSummaryList":[{"StartTime":"1.0","EndTime":"4.52"},{"StartTime":"7","EndTime":"8.5"}]}'
QUALITY = json.dumps(
    [
        {
            "Tag": "Valid",
            "MOS(0-5)": "3.41",
            "MOS": "Good",
            "Discontinuity(0-5)": 4.5,
            "Coloration(0-5)": 3.5,
            "Noisiness(0-5)": 3.25,
            "Loudness(0-5)": 4,
            "Loudness(-90dB-0dB)": -20.5,
            "Worst Noisiness(0-5)": 2.5,
            "Speech Ratio": 0.75,
            "Double Talk Ratio(%)": 1.5,
            "Bad Mute Ratio(%)": 0,
            "Saturated Ratio(%)": 0.5,
        },
        {"Tag": "Mute", "MOS(0-5)": 0},
    ]
)
"""The sister service's array, with a key that no page names exactly."""
NO_FILE = "no file named, see the output of the job"


class Summarised(Protocol):
    """What every result offers."""

    def summary(self) -> str:
        """One line."""


def one_file(key: str) -> str:
    data = json.dumps({"result": [{"file": key}]})
    return json.dumps({"Code": "Success", "Message": "Successful.", "Data": data})


def validated(function: str, data: JsonValue) -> BaseModel:
    found = find(function)
    assert found is not None
    return found.result.model_validate(data)


def summary_of(function: str, raw: JsonValue) -> str:
    return cast("Summarised", validated(function, read_result(raw, OUTPUT).data)).summary()


@pytest.mark.parametrize(
    ("function", "raw", "summary"),
    [
        pytest.param(
            "AudioBeatDetection",
            one_file("detectresult/normalvideo-161225931abcd.txt"),
            f"files: 1, first: {BASE}/detectresult/normalvideo-161225931abcd.txt",
            id="beats",
        ),
        pytest.param(
            "CaptionExtraction",
            one_file("captionextraction/b48d-161121379abcd.srt"),
            f"files: 1, first: {BASE}/captionextraction/b48d-161121379abcd.srt",
            id="captions",
        ),
        pytest.param(
            "VideoClip",
            one_file("videoclip/16e6abcd-1602755353502-origin.mp4"),
            f"files: 1, first: {BASE}/videoclip/16e6abcd-1602755353502-origin.mp4",
            id="a clip",
        ),
        pytest.param("VideoClip", SPANS, "spans: 2, together 5.02 s", id="the sister service's clips"),
        pytest.param("VideoGreenScreenMatting", one_file("m.webm"), f"files: 1, first: {BASE}/m.webm", id="matting"),
        pytest.param("AudioMixing", one_file("m.mp3"), f"files: 1, first: {BASE}/m.mp3", id="mixing"),
        pytest.param(
            "ImageCartoonize", CARTOONS, f"files: 2, first: {BASE}/iproduction/test-result.jpg", id="two pictures"
        ),
        pytest.param(
            "MusicSegmentDetect", CHORUSES, "segments: 3, together 76.81 s, first 39.32-63.85 s 副歌", id="choruses"
        ),
        pytest.param("MusicSegmentDetect", '{"Code":"Success","Data":""}', "segments: 0", id="no data, no chorus"),
        pytest.param(
            "Cover", STILLS, f"stills: 2, best: 8.27 at 28.28 s, {BASE}/cover/test-00001.jpg", id="stills, the best"
        ),
        pytest.param("Cover", NO_DETAILS, "stills: 0, see the output of the job", id="a cover of family c"),
        pytest.param("Cover", '{"Code":"Success","Data":"[]"}', "stills: 0, see the output of the job", id="no stills"),
        *(pytest.param(name, NO_DETAILS, f"details: 0, {NO_FILE}", id=f"{name}, none") for name in DETAILS_ONLY),
        *(pytest.param(name, ONE_DETAIL, "details: 1, b.mp4", id=f"{name}, one") for name in DETAILS_ONLY),
        pytest.param(
            "VideoH2V",
            '{"Code":"Success","Details":[{"Status":"Success","Output":{"Bucket":"b"}}]}',
            f"details: 1, {NO_FILE}",
            id="an output of another form",
        ),
        *(pytest.param(name, NO_DETAILS, '{"Details": []}', id=name) for name in UNKNOWN),
        *(pytest.param(name, "{}", "{}", id=f"{name}, empty") for name in ("FaceBeauty", "SpeechDenoise")),
        pytest.param("CaptionExtraction", "{}", "files: 0, first: none", id="the sister service's captions"),
        pytest.param(
            "MusicSegmentDetect",
            '[{"start":39.32,"end":63.85,"title":"副歌"}]',
            "segments: 1, together 24.53 s, first 39.32-63.85 s 副歌",
            id="the sister service's choruses",
        ),
        pytest.param("MusicSegmentDetect", "[]", "segments: 0", id="the sister service's, no chorus"),
        pytest.param(
            "AudioQualityAssessment", QUALITY, "channels: 2 (Valid, Mute), worst: MOS 3.41 Good", id="two channels"
        ),
        pytest.param("AudioQualityAssessment", "[]", "channels: 0 (none)", id="no channel"),
        pytest.param("AudioQualityAssessment", "[3]", "[3]", id="an array of another form"),
        pytest.param("AudioQualityAssessment", '[{"MOS(0-5)":"high"}]', '[{"MOS(0-5)": "high"}]', id="no score"),
        pytest.param("AudioQualityAssessment", '{"MOS":3}', '{"MOS": 3}', id="a quality of another form"),
    ],
)
@pytest.mark.parametrize("inline", [False, True], ids=["text", "object"])
def test_each_documented_result(*, function: str, raw: str, summary: str, inline: bool) -> None:
    """Each documented result fits its function's model and has this summary."""
    assert summary_of(function, json.loads(raw) if inline else raw) == summary


def test_the_values_of_a_cover() -> None:
    """Scores, times in milliseconds and URLs arrive as numbers and text, and the best one is the highest score."""
    cover = CoverResult.model_validate(read_result(STILLS, OUTPUT).data)
    assert [(still.score, still.time_ms) for still in cover.stills] == [
        (8.270855992569906, 28278.25),
        (7.474117489692728, 25942.583333333332),
    ]
    assert cover.stills[1].url == f"{BASE}/cover/test-00002.jpg"
    assert cover.best is cover.stills[0]


def test_the_best_still_need_not_come_first() -> None:
    """The best still is found by its score, and the earlier of two equals is taken."""
    stills = [{"Score": score, "Time": "0", "Url": url} for score, url in (("3", "a"), ("9.5", "b"), ("9.5", "c"))]
    best = CoverResult.model_validate(stills).best
    assert best is not None
    assert best.url == "b"


@pytest.mark.parametrize(
    ("function", "as_sent", "as_named"),
    [
        pytest.param(
            "Cover",
            [{"Score": 1.5, "Time": "2", "Url": "u"}],
            {"stills": [{"score": "1.5", "time_ms": 2, "url": "u"}]},
            id="Cover",
        ),
        pytest.param("Cover", {"Details": [1]}, {"details": [1]}, id="Cover of family c"),
        pytest.param(
            "MusicSegmentDetect",
            {"result": [{"start": "1.25", "end": 3, "title": "t"}]},
            {"segments": [{"start_s": 1.25, "end_s": "3", "title": "t"}]},
            id="MusicSegmentDetect",
        ),
        pytest.param(
            "VideoClip",
            {"VideoSummaryList": [{"StartTime": "1.0", "EndTime": "4.52"}]},
            {"spans": [{"start_s": 1, "end_s": 4.52}]},
            id="VideoClip of the sister service",
        ),
        *(pytest.param(name, {"result": [{"file": "u"}]}, {"files": [{"url": "u"}]}, id=name) for name in FILE_MAKERS),
        *(
            pytest.param(
                name,
                {"Details": [{"Status": "s", "Input": "i", "Output": "o"}]},
                {"details": [{"status": "s", "input": "i", "output": "o"}]},
                id=name,
            )
            for name in DETAILS_ONLY
        ),
    ],
)
def test_both_spellings(function: str, as_sent: JsonValue, as_named: JsonValue) -> None:
    """MPS's spelling and the model's own give equal objects, also with numbers as strings; a dump can be read back."""
    found = validated(function, as_sent)
    assert found == validated(function, as_named)
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_the_values_of_a_quality_assessment() -> None:
    """Each channel is typed; a score that means nothing is no worst one, and other keys are kept."""
    found = AudioQualityAssessmentResult.model_validate(json.loads(QUALITY))
    first, second = found.channels
    assert (first.tag, first.mos, first.band, first.is_valid) == ("Valid", 3.41, "Good", True)
    assert (first.discontinuity, first.coloration, first.noisiness, first.loudness) == (4.5, 3.5, 3.25, 4)
    assert (first.loudness_db, first.speech_ratio) == (-20.5, 0.75)
    assert (first.double_talk_percent, first.bad_mute_percent, first.saturated_percent) == (1.5, 0, 0.5)
    assert first.model_extra == {"Worst Noisiness(0-5)": 2.5}
    assert not second.is_valid
    assert found.worst is first
    assert AudioQualityAssessmentResult.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("data", [None, "text", 7, {"MOS": 3}, [3], [{"MOS(0-5)": "high"}]])
def test_a_quality_of_another_form_is_kept(data: JsonValue) -> None:
    """MPS's form is not documented: whatever is no array of channels is handed on as it came."""
    found = AudioQualityAssessmentResult.model_validate(data)
    assert (found.channels, found.other, found.worst) == ([], data, None)


def test_what_is_not_documented_is_kept() -> None:
    """Fields that are not documented are kept, at the top and in each part."""
    sent: JsonValue = {"result": [{"file": "u", "size": 7}], "cost_ms": 12}
    assert ImageCartoonizeResult.model_validate(sent).model_dump(by_alias=True) == sent


@pytest.mark.parametrize(
    ("function", "data"),
    [
        *(pytest.param(name, {}, id=f"{name} without files") for name in FILE_MAKERS if name != "CaptionExtraction"),
        pytest.param("CaptionExtraction", {"results": []}, id="captions of another form"),
        *(pytest.param(name, {"result": [{"file": ""}]}, id=f"{name} with an empty name") for name in FILE_MAKERS),
        *(pytest.param(name, {"result": [{"file": 7}]}, id=f"{name} with a number") for name in FILE_MAKERS),
        *(pytest.param(name, {"Details": {}}, id=f"{name} with details that are no list") for name in DETAILS_ONLY),
        *(pytest.param(name, {"Details": ["x"]}, id=f"{name} with a detail of text") for name in DETAILS_ONLY),
        *(pytest.param(name, "{broken", id=f"{name} as text") for name in (*FILE_MAKERS, *DETAILS_ONLY, "Cover")),
        pytest.param("Cover", {"result": []}, id="a cover of a third format"),
        pytest.param("Cover", [{"Time": "1", "Url": "u"}], id="a still without a score"),
        pytest.param("Cover", [{"Score": "high", "Time": "1", "Url": "u"}], id="a score in words"),
        pytest.param("Cover", [{"Score": "NaN", "Time": "1", "Url": "u"}], id="a score that is no number"),
        pytest.param("MusicSegmentDetect", {"result": [{"start": 1}]}, id="a segment without an end"),
        pytest.param("MusicSegmentDetect", {"result": [{"start": "1e999", "end": 2}]}, id="an endless segment"),
        pytest.param("VideoClip", {"VideoSummaryList": [{"StartTime": "a", "EndTime": "b"}]}, id="a span in words"),
    ],
)
def test_bad_data_is_refused(function: str, data: JsonValue) -> None:
    """Data that does not fit a documented format is refused, so that its message is set aside and can be replayed."""
    with pytest.raises(ValidationError):
        validated(function, data)


@pytest.mark.parametrize("function", names())
@given(job_id=st.text(alphabet="0123456789abcdef", min_size=32, max_size=32))
def test_what_the_sandbox_answers_fits(function: str, job_id: str) -> None:
    """Every result of the sandbox fits its function's model, and each file is completed to a URL."""
    media = {"input": "oss://b.oss-cn-hangzhou.aliyuncs.com/in/a.mp4", "output": OUTPUT}
    job = SandboxJob(job_id=job_id, function=function, **media)
    job.end(1612259310000)
    summary = summary_of(function, job.result_text)
    if function in (*FILE_MAKERS, "Cover"):
        assert f"{BASE}/out/a-1612259310000-0000" in summary
    if function == "Cover":
        assert summary.startswith("stills: 5, best: ")
    if function == "MusicSegmentDetect":
        assert summary.startswith("segments: 3, ")


@pytest.mark.parametrize("function", [*DETAILS_ONLY, *UNKNOWN, "Cover", "MusicSegmentDetect"])
def test_a_bare_head_is_no_fault_where_no_file_is_due(function: str) -> None:
    """The least that any function answers fits each model that does not require a file."""
    assert summary_of(function, '{"Code":"Success","Details":[],"Message":"success"}')
