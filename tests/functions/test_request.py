"""The rules for a whole request: each wrong input is refused before a call, with its field; good ones pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, JsonValue, ValidationError

from consumer.functions.catalogue import Function, documented, find
from consumer.functions.request import SAFE_USER_DATA_BYTES, typed_params
from consumer.notify_url import NotifyUrl, NotifyUrlError
from mns_consumer.functions import (
    AudioMixingParams,
    BeautyParams,
    Box,
    CaptionExtractionParams,
    CoverParams,
    FaceBeautyParams,
    FunctionParams,
    ImageCartoonizeParams,
    MixedFile,
    VideoDelogoParams,
    VideoDetextParams,
    VideoGreenScreenMattingParams,
    VideoH2VParams,
)
from mns_consumer.request import Destination, FindingLevel, JobRequest, RequestFinding, refused
from tests.test_citations import anchors, page

BUCKET = "oss://films.oss-cn-hangzhou.aliyuncs.com"
QUEUE = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/jobs"
PIPELINE = "39f8e0bc005e4f309379701645f4abcd"
HANGZHOU = Destination(region="cn-hangzhou", accounts=frozenset({"1234567890123456"}))
ERROR, FORCEABLE, WARNING = FindingLevel.ERROR, FindingLevel.FORCEABLE, FindingLevel.WARNING

FUNCTIONS = {function.name: function for function in documented()}
each_function = pytest.mark.parametrize("function", documented(), ids=lambda function: function.name)


def good(name: str, /, **changed: Any) -> JobRequest:
    """A request of this function that is right, with some parameters changed."""
    known = FUNCTIONS[name]
    sequence = "-{sequenceId}" if known.needs_sequence_id else ""
    request: dict[str, Any] = {
        "function": name,
        "params": dict(known.sample.params),
        "input": f"{BUCKET}/in/{known.sample.input}",
        "output": known.output and f"{BUCKET}/out/{{source}}-{{timestamp}}{sequence}.{known.sample.ending}",
        "notify_url": QUEUE,
    }
    return JobRequest(**{**request, **changed})


def levels(request: JobRequest, destination: Destination = HANGZHOU) -> dict[str, FindingLevel]:
    return {finding.field: finding.level for finding in request.findings(destination)}


def out(name: str) -> str:
    return f"{BUCKET}/out/{name}"


STILLS = out("{source}-{sequenceId}.jpg")
FAR = "oss://films.oss-cn-beijing.aliyuncs.com"

WRONG: list[Any] = [
    # FunctionName, ModelId
    ("Cover", {"function": ""}, "FunctionName", ERROR, "a FunctionName such as Cover"),
    ("Cover", {"function": "Co ver"}, "FunctionName", ERROR, "'Co ver'"),
    ("Cover", {"function": "Covr"}, "FunctionName", FORCEABLE, "did you mean Cover?"),
    ("Cover", {"function": "cover"}, "FunctionName", FORCEABLE, "did you mean Cover?"),
    ("Cover", {"function": "MusicDemix"}, "FunctionName", FORCEABLE, "MusicDemix"),
    ("VideoDetext", {"model_id": "algo-video-detext"}, "ModelId", FORCEABLE, "algo-video-detext-new"),
    # Input
    *((name, {"input": None}, "Input", ERROR, FUNCTIONS[name].input) for name in FUNCTIONS),
    ("Cover", {"input": ""}, "Input", ERROR, "came nothing"),
    ("Cover", {"input": "film.mp4"}, "Input", ERROR, "oss://BUCKET.oss-REGION.aliyuncs.com/KEY"),
    ("Cover", {"input": "/films/film.mp4"}, "Input", ERROR, "oss://BUCKET.oss-REGION"),
    ("Cover", {"input": f"{BUCKET}/"}, "Input", ERROR, "KEY"),
    ("Cover", {"input": BUCKET}, "Input", ERROR, "KEY"),
    ("Cover", {"input": "s3://films/film.mp4"}, "Input", ERROR, "s3://"),
    ("Cover", {"input": "https://example.com/film.mp4"}, "Input", ERROR, "https://example.com"),
    ("Cover", {"input": "oss://films/in/film.mp4"}, "Input", FORCEABLE, "a form of IMS"),
    ("Cover", {"input": "https://films.oss-cn-hangzhou.aliyuncs.com/film.mp4"}, "Input", FORCEABLE, "a form of IMS"),
    (
        "Cover",
        {"input": "oss://films.oss-cn-hangzhou-internal.aliyuncs.com/film.mp4"},
        "Input",
        FORCEABLE,
        "without -internal",
    ),
    ("Cover", {"input": f"{BUCKET}/in/"}, "Input", FORCEABLE, "the name of a file"),
    ("Cover", {"input": f"{BUCKET}/{{source}}.mp4"}, "Input", FORCEABLE, "placeholders belong in Output"),
    ("Cover", {"input": f"{FAR}/film.mp4"}, "Input", ERROR, "a bucket in cn-hangzhou, the region of MPS"),
    ("VideoH2V", {"input": f"{BUCKET}/song.mp3"}, "Input", FORCEABLE, "video"),
    ("VideoClip", {"input": f"{BUCKET}/film.srt"}, "Input", FORCEABLE, "video"),
    ("ImageH2V", {"input": f"{BUCKET}/film.mp4"}, "Input", FORCEABLE, "image"),
    ("ImageDelogo", {"input": f"{BUCKET}/film.MP4"}, "Input", FORCEABLE, "image"),
    ("MusicSegmentDetect", {"input": f"{BUCKET}/poster.jpg"}, "Input", FORCEABLE, "audio or video"),
    ("AudioBeatDetection", {"input": f"{BUCKET}/poster.png"}, "Input", FORCEABLE, "audio or video"),
    ("AudioQualityAssessment", {"input": f"{BUCKET}/voice.mp3"}, "Input", FORCEABLE, ".wav"),
    ("SpeechDenoise", {"input": f"{BUCKET}/voice.m4a"}, "Input", FORCEABLE, ".wav"),
    # Output
    *(
        (name, {"output": None}, "Output", FORCEABLE if known.output_is_inferred else ERROR, known.output)
        for name, known in FUNCTIONS.items()
        if known.output
    ),
    ("VideoClip", {"output": "out/film.mp4"}, "Output", ERROR, "oss://BUCKET"),
    ("VideoClip", {"output": "oss://films/out/film.mp4"}, "Output", FORCEABLE, "a form of IMS"),
    ("VideoClip", {"output": f"{BUCKET}/out/"}, "Output", FORCEABLE, "the name of a file"),
    ("VideoClip", {"output": f"{FAR}/film.mp4"}, "Output", ERROR, "says Success and writes nothing"),
    ("VideoClip", {"output": out("{Source}.mp4")}, "Output", ERROR, "expected {source}; came '{Source}'"),
    ("VideoClip", {"output": out("{sourc}.mp4")}, "Output", ERROR, "{source}"),
    ("VideoClip", {"output": out("{TimeStamp}.mp4")}, "Output", ERROR, "{timestamp}"),
    ("Cover", {"output": out("{source}-{sequence_id}.jpg")}, "Output", ERROR, "{sequenceId}"),
    ("Cover", {"output": out("{source}-{sequenceID}.jpg")}, "Output", ERROR, "{sequenceId}"),
    ("CaptionExtraction", {"output": out("{resulttype}")}, "Output", ERROR, "{resultType}"),
    ("VideoClip", {"output": out("{ObjectPrefix}.mp4")}, "Output", FORCEABLE, "one of the placeholders"),
    ("VideoClip", {"output": out("{}.mp4")}, "Output", FORCEABLE, "one of the placeholders"),
    ("VideoClip", {"output": out("{source.mp4")}, "Output", FORCEABLE, "in pairs of braces"),
    ("Cover", {"output": out("{source}.jpg")}, "Output", ERROR, "{sequenceId} in it"),
    ("Cover", {"output": out("{source}.gif"), "params": {"Model": "gif"}}, "Output", ERROR, "{sequenceId} in it"),
    ("ImageCartoonize", {"output": out("{source}.jpg")}, "Output", FORCEABLE, "{sequenceId} in it"),
    ("CaptionExtraction", {"params": {"sep": True}}, "Output", ERROR, "{resultType} in it"),
    (
        "CaptionExtraction",
        {"params": {"sep": True}, "output": out("{source}-{resultType}.srt")},
        "Output",
        FORCEABLE,
        "it would come twice",
    ),
    ("CaptionExtraction", {"output": out("{source}-{resultType}")}, "Output", FORCEABLE, "no {resultType}"),
    ("VideoClip", {"output": out("{source}-{resultType}")}, "Output", FORCEABLE, "no {resultType}"),
    ("CaptionExtraction", {"output": out("{source}.txt")}, "Output", FORCEABLE, ".srt"),
    ("AudioBeatDetection", {"output": out("{source}.json")}, "Output", FORCEABLE, ".txt"),
    ("AudioMixing", {"output": out("{source}.mp4")}, "Output", FORCEABLE, "audio"),
    ("FaceBeauty", {"output": out("{source}.mov")}, "Output", FORCEABLE, ".mp4"),
    ("SpeechDenoise", {"output": out("{source}.mp3")}, "Output", FORCEABLE, ".wav"),
    ("VideoGreenScreenMatting", {"output": out("{source}.mp4")}, "Output", FORCEABLE, ".webm"),
    (
        "VideoGreenScreenMatting",
        {"params": {"bgimage": "https://example.com/sky.jpg"}},
        "Output",
        FORCEABLE,
        ".mp4",
    ),
    ("Cover", {"output": out("{sequenceId}.mp4")}, "Output", FORCEABLE, "image"),
    ("VideoDelogo", {"output": out("{source}.jpg")}, "Output", FORCEABLE, "video"),
    # JobParams: their form
    ("Cover", {"params": "{"}, "JobParams", ERROR, "a JSON object"),
    ("Cover", {"params": "[1]"}, "JobParams", ERROR, "a JSON object"),
    ("Cover", {"params": ""}, "JobParams", ERROR, "a JSON object"),
    ("Cover", {"params": '{"Model":"gif","Model":""}'}, "JobParams", ERROR, "each key once"),
    ("ImageCartoonize", {"params": '{"scale":NaN}'}, "JobParams", ERROR, "a JSON object"),
    ("Cover", {"params": '{mode:"gif"}'}, "JobParams", ERROR, "a JSON object"),
    ("Cover", {"params": VideoH2VParams()}, "JobParams", ERROR, "parameters of Cover; came 'VideoH2VParams'"),
    ("Cover", {"params": {"sandbox": {"stuck": True}}}, "JobParams.sandbox", FORCEABLE, "the local sandbox"),
    # JobParams: of functions that have none
    *(
        (name, {"params": {"fps": 5}}, "JobParams.fps", FORCEABLE, f"{{}}: {name} has no parameters")
        for name in (
            *("VideoH2V", "VideoClip", "ImageH2V", "ImageDelogo", "MusicSegmentDetect", "AudioBeatDetection"),
            *("AudioQualityAssessment", "SpeechDenoise"),
        )
    ),
    # JobParams: of each function
    ("Cover", {"params": {"Model": "png"}}, "JobParams.Model", ERROR, "gif"),
    ("Cover", {"params": {"Model": 1}}, "JobParams.Model", ERROR, "came 1"),
    ("Cover", {"params": {"mode": "gif"}}, "JobParams.mode", FORCEABLE, "did you mean Model?"),
    ("Cover", {"params": {"Count": 3}}, "JobParams.Count", FORCEABLE, "Cover has Model"),
    ("VideoDelogo", {"params": {"Logo": "x"}}, "JobParams.Logo", ERROR, "it is no JSON"),
    ("VideoDelogo", {"params": {"Logo": [[0.9, 0, 0.2, 0.1]]}}, "JobParams.Logo.0", ERROR, "xmin + width is 1.1"),
    ("VideoDelogo", {"params": {"Logo": "[[0,0.5,1,0.6]]"}}, "JobParams.Logo.0", ERROR, "ymin + height is 1.1"),
    ("VideoDelogo", {"params": {"Logo": [[0, 0, 2, 0.1]]}}, "JobParams.Logo.0.2", ERROR, "came 2"),
    ("VideoDelogo", {"params": {"Logo": [[-0.1, 0, 0.2, 0.1]]}}, "JobParams.Logo.0.0", ERROR, "came -0.1"),
    ("VideoDelogo", {"params": {"Logo": [[0, 0, 0.1]]}}, "JobParams.Logo.0.3", ERROR, "required"),
    ("VideoDelogo", {"params": {"Logo": [[0, 0, 0.1, 0.1]] * 3}}, "JobParams.Logo", ERROR, "at most 2 boxes"),
    ("VideoDelogo", {"params": {"LogoModel": "tv"}}, "JobParams.LogoModel", FORCEABLE, "IMS's name, MPS takes Logo"),
    ("VideoDelogo", {"params": {"Boxes": []}}, "JobParams.Boxes", FORCEABLE, "MPS takes Logo"),
    ("VideoDetext", {"params": {"Text": [[0, 0.9, 1, 0.2]]}}, "JobParams.Text.0", ERROR, "ymin + height is 1.1"),
    ("VideoDetext", {"params": {"Text": [[0, 0.9, 1, 0.1]] * 3}}, "JobParams.Text", ERROR, "at most 2"),
    ("VideoDetext", {"params": {"LimitRegion": []}}, "JobParams.LimitRegion", FORCEABLE, "MPS takes Text"),
    ("VideoDetext", {"params": {"Time": "1"}}, "JobParams.Time", FORCEABLE, "IMS's name"),
    ("CaptionExtraction", {"params": {"fps": 1}}, "JobParams.fps", ERROR, "2 to 10"),
    ("CaptionExtraction", {"params": {"fps": 11}}, "JobParams.fps", ERROR, "came 11"),
    ("CaptionExtraction", {"params": {"fps": 2.5}}, "JobParams.fps", ERROR, "came 2.5"),
    ("CaptionExtraction", {"params": {"roi": [[0.5, 1.1], [0, 1]]}}, "JobParams.roi.0.1", ERROR, "came 1.1"),
    ("CaptionExtraction", {"params": {"roi": [[0.5, 1], 1]}}, "JobParams.roi.1", ERROR, "[[top,bottom],[left,right]]"),
    ("CaptionExtraction", {"params": {"roi": [[1, 0], [0, 1]]}}, "JobParams.roi", FORCEABLE, "is empty"),
    ("CaptionExtraction", {"params": {"sep": "perhaps"}}, "JobParams.sep", ERROR, "whether each language"),
    ("CaptionExtraction", {"params": {"formatter": 1}}, "JobParams.formatter", ERROR, "text that formats"),
    ("CaptionExtraction", {"params": {"track": "all"}}, "JobParams.track", ERROR, "main"),
    ("CaptionExtraction", {"params": {"lang": "fr"}}, "JobParams.lang", FORCEABLE, "ch, en or ch_ml"),
    ("VideoGreenScreenMatting", {"params": {"bgimage": "sky.jpg"}}, "JobParams.bgimage", ERROR, "URL"),
    ("VideoGreenScreenMatting", {"params": {"mode": "url"}}, "JobParams.mode", FORCEABLE, "file"),
    ("AudioMixing", {"params": {}}, "JobParams.inputs", ERROR, "exactly one"),
    ("AudioMixing", {"params": {"inputs": []}}, "JobParams.inputs", ERROR, "exactly one"),
    (
        "AudioMixing",
        {"params": {"inputs": [{"file": f"{BUCKET}/{number}.mp3"} for number in range(2)]}},
        "JobParams.inputs",
        ERROR,
        "exactly one",
    ),
    ("AudioMixing", {"params": {"inputs": {"file": f"{BUCKET}/a.mp3"}}}, "JobParams.inputs", ERROR, "IMS's form"),
    ("AudioMixing", {"params": {"inputs": [{"file": "a.mp3"}]}}, "JobParams.inputs.0.file", ERROR, "oss://"),
    ("AudioMixing", {"params": {"inputs": ["a.mp3"]}}, "JobParams.inputs.0", ERROR, "exactly one"),
    ("FaceBeauty", {"params": {"beauty_params": "whiten"}}, "JobParams.beauty_params", FORCEABLE, "no k=v"),
    ("FaceBeauty", {"params": {"beauty_params": "smile=1,smile=2"}}, "JobParams.beauty_params", FORCEABLE, "twice"),
    (
        "FaceBeauty",
        {"params": {"beauty_params": "whiten=101"}},
        "JobParams.beauty_params.whiten",
        FORCEABLE,
        "came '101'",
    ),
    ("FaceBeauty", {"params": {"beauty_params": "glow=1"}}, "JobParams.beauty_params.glow", FORCEABLE, "not permitted"),
    ("FaceBeauty", {"params": {"whiten": 1}}, "JobParams.whiten", FORCEABLE, "FaceBeauty has beauty_params"),
    # Where the end is reported
    ("Cover", {"schedule_params": "1"}, "ScheduleParams", FORCEABLE, "its content is not documented"),
    ("Cover", {"schedule_params": "soon"}, "ScheduleParams", FORCEABLE, "a JSON object"),
    ("Cover", {"notify_url": "https://example.com/hook"}, "NotifyUrl", ERROR, "mns://ACCOUNT.mns.REGION"),
    ("Cover", {"notify_url": QUEUE.replace("queues", "topics")}, "NotifyUrl", ERROR, "MNS queues alone"),
    ("Cover", {"notify_url": "mns://1.oss-cn-hangzhou.aliyuncs.com/queues/q"}, "NotifyUrl", ERROR, ".mns."),
    ("Cover", {"notify_url": QUEUE.replace("hangzhou", "beijing")}, "NotifyUrl", FORCEABLE, "a queue in cn-hangzhou"),
    ("Cover", {"notify_url": QUEUE.replace("123456.", "654321.")}, "NotifyUrl", FORCEABLE, "of account 1234567890123"),
    ("Cover", {"pipeline_id": "p1"}, "PipelineId", FORCEABLE, "32 hex digits"),
    ("Cover", {"pipeline_id": f"{PIPELINE}0"}, "PipelineId", FORCEABLE, "32 hex digits"),
]


def named(row: Any) -> str:
    function, changed, field, *_ = row
    return f"{function} {field}: {next(iter(changed.values()))!s:.40}"


@pytest.mark.parametrize(("function", "changed", "field", "level", "text"), WRONG, ids=[named(row) for row in WRONG])
def test_wrong_requests(function: str, changed: dict[str, Any], field: str, level: FindingLevel, text: str) -> None:
    """One wrong parameter is one refusal, which names the field, what was expected, what came and where it stands."""
    request = good(function, **changed)
    (finding,) = refused(request.findings(HANGZHOU))
    assert (finding.field, finding.level) == (field, level)
    assert text in str(finding)
    assert str(finding).startswith(f"{field}: expected ")
    assert "; came " in str(finding)
    assert_cited(finding)
    assert bool(refused(request.findings(HANGZHOU), force=True)) is (level is ERROR)


def assert_cited(finding: RequestFinding) -> None:
    name, _, anchor = finding.source.partition(".md#")
    assert name == "facts/iproduction"
    assert anchor in anchors(page("iproduction"))


def test_every_function_has_wrong_rows() -> None:
    """The table is not about a few functions: each of the 16 has rows of its own, and there are more than 100."""
    assert {row[0] for row in WRONG} == set(FUNCTIONS)
    assert len(WRONG) > 100


GOOD: list[Any] = [
    ("Cover", {}, "{}"),
    ("Cover", {"params": {"Model": ""}}, '{"Model":""}'),
    ("Cover", {"params": {"Model": "gif"}, "output": out("{source}-{sequenceId}.gif")}, '{"Model":"gif"}'),
    ("Cover", {"params": CoverParams(model="gif")}, '{"Model":"gif"}'),
    ("Cover", {"params": "null"}, "{}"),
    ("VideoDelogo", {"params": {}}, "{}"),
    ("VideoDelogo", {"params": {"Logo": [[0, 0, 1, 1]]}}, '{"Logo":"[[0.0,0.0,1.0,1.0]]"}'),
    (
        "VideoDelogo",
        {"params": VideoDelogoParams(logo=[Box(0.7, 0.1, 0.3, 0.2), Box(0.1, 0.9, 0.3, 0.1)])},
        '{"Logo":"[[0.7,0.1,0.3,0.2],[0.1,0.9,0.3,0.1]]"}',
    ),
    ("VideoDetext", {"model_id": "algo-video-detext-new"}, '{"Text":"[[0.1,0.8,0.8,0.15]]"}'),
    (
        "CaptionExtraction",
        {
            "params": CaptionExtractionParams(fps=10, roi=((0.75, 1), (0, 1)), sep=True, formatter="{\\an8}"),
            "output": out("{source}-{resultType}"),
        },
        '{"fps":10,"roi":[[0.75,1.0],[0.0,1.0]],"sep":true,"formatter":"{\\\\an8}"}',
    ),
    ("CaptionExtraction", {"params": {"fps": "2", "lang": "ch_ml"}}, '{"fps":2,"lang":"ch_ml"}'),
    (
        "VideoGreenScreenMatting",
        {
            "params": VideoGreenScreenMattingParams(bgimage="https://example.com/sky.jpg", mode="file"),
            "output": out("{source}.mp4"),
        },
        '{"bgimage":"https://example.com/sky.jpg","mode":"file"}',
    ),
    (
        "AudioMixing",
        {"params": AudioMixingParams(inputs=[MixedFile(file=f"{BUCKET}/a.mp3")])},
        f'{{"inputs":[{{"file":"{BUCKET}/a.mp3"}}]}}',
    ),
    (
        "FaceBeauty",
        {"params": FaceBeautyParams(beauty_params=BeautyParams(whiten=30, threshold=0.5, nose_thin=-10))},
        '{"beauty_params":"whiten=30,nose_thin=-10,threshold=0.5"}',
    ),
    ("FaceBeauty", {"params": {"beauty_params": " smile = 3 , smooth=0"}}, '{"beauty_params":"smooth=0,smile=3"}'),
    ("ImageCartoonize", {"params": {"mode": "gif", "n": [1]}}, '{"mode":"gif","n":[1]}'),
    ("ImageCartoonize", {"params": ImageCartoonizeParams.model_validate({"style": "3d"})}, '{"style":"3d"}'),
    # As the vendor's own sample has it.
    ("ImageCartoonize", {"input": f"{BUCKET}/example.mp4", "output": out("{source}-{sequenceId}.srt")}, "{}"),
    ("AudioQualityAssessment", {"input": f"{BUCKET}/voice.WAV"}, "{}"),
    ("SpeechDenoise", {"input": f"{BUCKET}/voice"}, "{}"),
    ("MusicSegmentDetect", {"input": f"{BUCKET}/concert.mp4"}, "{}"),
    ("VideoH2V", {"input": f"{BUCKET}/片/film.unknown"}, "{}"),
    ("VideoH2V", {"pipeline_id": PIPELINE, "notify_url": None, "schedule_params": "null"}, "{}"),
    ("VideoH2V", {"schedule_params": '{"Priority": 1}', "user_data": "x" * SAFE_USER_DATA_BYTES}, "{}"),
    ("VideoH2V", {"notify_url": QUEUE.replace("cn-hangzhou", "cn-hangzhou-internal-vpc")}, "{}"),
]


@pytest.mark.parametrize(("function", "changed", "text"), GOOD, ids=[row[0] for row in GOOD])
def test_good_requests(function: str, changed: dict[str, Any], text: str) -> None:
    """A right request has no finding, and its JobParams are written as they are documented."""
    request = good(function, **changed)
    assert request.findings(HANGZHOU) == ()
    assert request.parameters()["JobParams"] == text


@each_function
def test_the_samples_are_good(function: Function) -> None:
    """The sample of each function is a good request, and its parameters are written as they stand there."""
    request = good(function.name)
    assert request.findings(HANGZHOU) == ()
    assert json.loads(request.parameters()["JobParams"]) == dict(function.sample.params)


WARNED = [
    ("MusicSegmentDetect", {"output": out("{source}.json")}, "Output", "none: MusicSegmentDetect writes no file"),
    ("VideoDetext", {"params": {"Text": [[0, 0.1, 1, 0.2]]}}, "JobParams.Text", "in the bottom 30 %"),
    ("VideoDetext", {"params": VideoDetextParams(text=[Box(0, 0, 1, 0.7)])}, "JobParams.Text", "in the bottom 30 %"),
    ("Cover", {"user_data": "片" * 342}, "UserData", "at most 1024 bytes"),
    ("Cover", {"notify_url": None}, "NotifyUrl", "no message reports the end"),
]


@pytest.mark.parametrize(("function", "changed", "field", "text"), WARNED)
def test_warnings(function: str, changed: dict[str, Any], field: str, text: str) -> None:
    """What is allowed and probably not meant is a warning, which refuses nothing."""
    (finding,) = good(function, **changed).findings(HANGZHOU)
    assert (finding.field, finding.level) == (field, WARNING)
    assert text in str(finding)
    assert_cited(finding)
    assert refused([finding]) == ()


def test_all_problems_come_together() -> None:
    """A request with many faults has them all, in the order of the API's parameters."""
    request = JobRequest(
        function="CaptionExtraction",
        params={"fps": 99, "sep": True, "Fps": 5, "lang": "xx"},
        input="film.mp4",
        output=f"{FAR}/{{Source}}.txt",
        notify_url="http://x",
        pipeline_id="p",
        schedule_params="1",
        user_data="x" * 2000,
    )
    fields = [finding.field for finding in request.findings(HANGZHOU)]
    assert fields == [
        *("Input", "Output", "Output", "Output"),
        *("JobParams.fps", "JobParams.lang", "JobParams.Fps"),
        *("ScheduleParams", "NotifyUrl", "PipelineId", "UserData"),
    ]


def test_regions_without_a_known_one() -> None:
    """Where MPS's region is not known, the buckets and the queue must still agree."""
    far = f"{FAR}/film.mp4"
    assert levels(good("VideoClip"), Destination()) == {}
    assert levels(good("VideoClip", output=far), Destination()) == {"Output": ERROR}
    assert levels(good("VideoClip", input=far, output=far), Destination()) == {"NotifyUrl": FORCEABLE}


def test_an_account_that_is_not_known_is_not_checked() -> None:
    """Without settings any account is taken."""
    assert levels(good("VideoClip", notify_url=QUEUE.replace("123456.", "99.")), Destination()) == {}


def test_orders_of_the_sandbox() -> None:
    """The sandbox's orders pass where the request goes to a sandbox, and are sent along with typed parameters."""
    request = good("Cover", params={"Model": "gif", "sandbox": {"stuck": True}})
    assert request.findings(Destination(is_sandbox=True)) == ()
    assert json.loads(request.parameters()["JobParams"]) == {"Model": "gif", "sandbox": {"stuck": True}}
    assert levels(request) == {"JobParams.sandbox": FORCEABLE}


def test_what_is_sent() -> None:
    """A request is written with the API's names; what is not given, and ScheduleParams null, is left out."""
    request = JobRequest(params=CoverParams(model="gif"), input=out("a.mp4"), output=STILLS, schedule_params="null")
    assert request.parameters() == {
        "FunctionName": "Cover",
        "JobParams": '{"Model":"gif"}',
        "Input": out("a.mp4"),
        "Output": STILLS,
    }


def test_what_does_not_fit_is_sent_as_it_came() -> None:
    """JobParams that are refused stay as they came, so that a forced request sends what was meant."""
    text = '{"fps": 99,  "new": [1]}'
    assert good("CaptionExtraction", params=text).parameters()["JobParams"] == text
    assert good("Cover", function="MusicDemix", params=text).parameters()["JobParams"] == text


class MusicDemixParams(FunctionParams):
    """Parameters of a function that is not shipped."""

    model_config = ConfigDict(extra="allow")
    function = "MusicDemix"


def test_parameters_of_a_function_that_is_not_documented() -> None:
    """A model of one's own knows its function, which still must be forced."""
    request = good("Cover", function="", params=MusicDemixParams.model_validate({"stems": 2}))
    assert request.parameters()["FunctionName"] == "MusicDemix"
    assert request.parameters()["JobParams"] == '{"stems":2}'
    assert levels(request) == {"FunctionName": FORCEABLE}


@pytest.mark.parametrize(
    ("function", "came", "typed"),
    [
        ("Cover", {"model": "gif"}, {"model": "gif"}),
        ("Cover", {"sandbox": '{"stuck": true}'}, {"sandbox": {"stuck": True}}),
        ("CaptionExtraction", {"fps": "5", "formatter": "7"}, {"fps": "5", "formatter": "7"}),
        ("MusicDemix", {"n": "5", "on": "true", "name": "a b"}, {"n": 5, "on": True, "name": "a b"}),
    ],
)
def test_parameters_of_a_command_line(function: str, came: Mapping[str, str], typed: Mapping[str, JsonValue]) -> None:
    """Values that came as text are left to the function's model; others are JSON where they are JSON."""
    assert typed_params(function, came) == typed


@pytest.mark.parametrize(
    ("function", "came", "written"),
    [
        ("Cover", {"model": "gif"}, '{"Model":"gif"}'),
        ("CaptionExtraction", {"fps": "5", "sep": "true", "formatter": "7"}, '{"fps":5,"sep":true,"formatter":"7"}'),
        ("CaptionExtraction", {"roi": "[[0.5,1],[0,1]]"}, '{"roi":[[0.5,1.0],[0.0,1.0]]}'),
        ("VideoDelogo", {"logo": "[[0.1,0.1,0.2,0.2]]"}, '{"Logo":"[[0.1,0.1,0.2,0.2]]"}'),
        ("AudioMixing", {"inputs": '[{"file":"oss://b/a.mp3"}]'}, '{"inputs":[{"file":"oss://b/a.mp3"}]}'),
    ],
)
def test_text_becomes_what_the_model_says(function: str, came: Mapping[str, str], written: str) -> None:
    """Text of a command line, by either spelling of a name, is written with the documented name and type."""
    known = find(function)
    assert known is not None
    assert known.params.model_validate(dict(typed_params(function, came))).job_params() == written


def test_typed_parameters_refuse_too() -> None:
    """A model that is built in Python refuses a wrong value at once, and does not change afterwards."""
    with pytest.raises(ValidationError, match="less than or equal to 10"):
        CaptionExtractionParams(fps=11)
    with pytest.raises(ValidationError, match="frozen"):
        CoverParams().model = "gif"  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        *(QUEUE, f"{QUEUE}/", f" {QUEUE} ", QUEUE.replace(".mns.", "."), QUEUE.replace("jobs", "-jobs")),
        *(QUEUE.replace("cn-hangzhou", f"cn-hangzhou{end}") for end in ("-internal", "-internal-vpc", "-vpc", "_")),
        *(QUEUE.replace("jobs", ""), QUEUE.replace("mns:", "http:"), QUEUE.upper(), f"{QUEUE}?x=1", ""),
    ],
)
def test_one_form_of_a_notify_url(url: str) -> None:
    """The rules and the settings take the same NotifyUrls."""
    request = good("Cover", notify_url=url or "x")
    try:
        NotifyUrl.parse(url)
    except NotifyUrlError:
        assert levels(request, Destination())["NotifyUrl"] is ERROR
    else:
        assert ERROR not in levels(request, Destination()).values()


TEXTS = st.text() | st.sampled_from([QUEUE, STILLS, "null", "{}", '{"Model":{}}', "{source}", "\ud800"])


@given(
    st.builds(
        JobRequest,
        function=st.sampled_from([*FUNCTIONS, "x", ""]),
        params=TEXTS | st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=3),
        input=TEXTS,
        output=TEXTS,
        user_data=TEXTS,
        notify_url=TEXTS,
        pipeline_id=TEXTS,
        model_id=TEXTS,
        schedule_params=TEXTS,
    )
)
def test_any_request_is_judged(request: JobRequest) -> None:
    """No request makes the rules fail; whatever comes has findings of one line, and can be written."""
    for finding in request.findings():
        assert "\n" not in str(finding)
        assert_cited(finding)
    assert all(isinstance(value, str) for value in request.parameters().values())
