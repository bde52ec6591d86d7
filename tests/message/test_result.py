"""Rules of a job's Result by name: five families, broken text, files; then that anything gives a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.message.result import JobResult, read_result

SAMPLES = Path(__file__).parent / "samples"
OUTPUT = "oss://example-****.oss-cn-hangzhou.aliyuncs.com/iproduction/{source}-{timestamp}-{sequenceId}.srt"
BASE = "oss://example-****.oss-cn-hangzhou.aliyuncs.com"
NOTHING = "Result: expected a JSON object, came nothing"
VPC = "oss://b.oss-cn-hangzhou-internal.aliyuncs.com"


def files(*keys: str) -> JsonValue:
    return {"result": [{"file": f"{BASE}/{key}"} for key in keys]}


@pytest.mark.parametrize(
    ("sample", "data"),
    [
        pytest.param("AudioBeatDetection", files("detectresult/normalvideo-161225931abcd.txt"), id="a: one file"),
        pytest.param(
            "CaptionExtraction",
            files("captionextraction/b48d02b58e9b6a0d1c13271bcf9aa6d7-161121379abcd.srt"),
            id="a: a caption file",
        ),
        pytest.param(
            "VideoClip", files("videoclip/16e6bc5ca802e12429d082010164abcd-1602755353502-origin.mp4"), id="a: a clip"
        ),
        pytest.param(
            "ImageCartoonize", files("iproduction/test-result.jpg", "iproduction/test-origin.jpg"), id="a: two files"
        ),
        pytest.param(
            "MusicSegmentDetect",
            {
                "result": [
                    {"start": 39.32, "end": 63.85, "title": "副歌"},
                    {"start": 86.69, "end": 114.45, "title": "副歌"},
                    {"start": 135.75, "end": 160.27, "title": "副歌"},
                ]
            },
            id="a: segments",
        ),
        pytest.param(
            "Cover-data",
            [
                {"Score": 8.270855992569906, "Time": "28278.25", "Url": f"{BASE}/cover/test-00001.jpg"},
                {"Score": 7.474117489692728, "Time": "25942.583333333332", "Url": f"{BASE}/cover/test-00002.jpg"},
            ],
            id="b: an array",
        ),
        pytest.param("VideoDetext", {"Details": []}, id="c: empty details"),
        pytest.param(
            "VideoH2V-details",
            {"Details": [{"Status": "Success", "Input": "a.mp4", "Output": "b.mp4"}]},
            id="c: details",
        ),
        pytest.param("data-object", {"result": [{"file": f"{BASE}/matting/a.webm"}]}, id="d: an object"),
        pytest.param("bare", {"VideoSummaryList": [{"StartTime": "1.0", "EndTime": "4.52"}]}, id="e: bare"),
    ],
)
@pytest.mark.parametrize("inline", [False, True], ids=["text", "object"])
def test_each_family(*, sample: str, data: JsonValue, inline: bool) -> None:
    """Every family unfolds to what a model can take, from a string and from an object."""
    text = (SAMPLES / f"result-{sample}.json").read_text()
    found = read_result(json.loads(text) if inline else text, OUTPUT)
    assert (found.data, found.problem) == (data, None)
    assert found.code == (None if sample == "bare" else "Success")
    assert json.loads(found.text) == json.loads(text)


def test_the_result_inside_a_whole_answer() -> None:
    """The documented answer's own Result and Output give full URLs."""
    answer = json.loads((SAMPLES / "query-response-ImageCartoonize.json").read_text())
    found = read_result(answer["Result"], answer["Output"])
    assert found.data == files("iproduction/test-result.jpg", "iproduction/test-origin.jpg")
    assert (found.code, found.message, found.text) == ("Success", "Successful.", answer["Result"])


def test_the_result_of_a_submission() -> None:
    """The documented submission's Result, an object, is of the family without Data."""
    answer = json.loads((SAMPLES / "submit-response.json").read_text())
    found = read_result(answer["Result"], None)
    assert (found.code, found.message) == ("Success", "success")
    assert found.data == {
        "Details": [],
        "FunctionName": "ImageCartoonize",
        "JobId": "39f8e0bc005e4f309379701645f4abcd",
        "State": "Success",
        "Type": "IProduction",
    }


def test_a_full_width_colon_survives_as_text() -> None:
    """The vendor's broken sample keeps its text, with the layer and the position of the fault."""
    found = read_result((SAMPLES / "result-full-width-colon.json").read_text(), OUTPUT)
    assert found.data == '{"result"\uff1a[{"file":"delogo/a.mp4"}]}'
    assert found.problem is not None
    assert found.problem.startswith("Data at 9: ")
    assert "'\uff1a'" in found.problem
    assert (found.code, found.message) == ("Success", "Successful.")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param("", JobResult(None, None, None, "", NOTHING), id="empty"),
        pytest.param(None, JobResult(None, None, None, "", NOTHING), id="none"),
        pytest.param(
            "oops",
            JobResult(None, None, "oops", "oops", "Result at 0: not JSON: expecting value, came 'o'"),
            id="words",
        ),
        pytest.param(
            "7",
            JobResult(None, None, "7", "7", "Result at 0: expected a JSON object or array, came a number"),
            id="number",
        ),
        pytest.param(
            7,
            JobResult(None, None, "7", "7", "Result at 0: expected a JSON object or array, came a number"),
            id="inline number",
        ),
        pytest.param("[1]", JobResult(None, None, [1], "[1]", None), id="a bare array"),
        pytest.param("{}", JobResult(None, None, {}, "{}", None), id="an empty document"),
        pytest.param('{\\"Data\\":[]}', JobResult(None, None, [], '{\\"Data\\":[]}', None), id="a stray layer"),
        pytest.param(
            '{"Code":1,"Message":null}',
            JobResult("1", None, {}, '{"Code":1,"Message":null}', None),
            id="a code that is no text",
        ),
        pytest.param(
            '{"code":"x","DATA":"[]"}', JobResult("x", None, [], '{"code":"x","DATA":"[]"}', None), id="any case"
        ),
        pytest.param(
            '{"Data":"done"}',
            JobResult(None, None, "done", '{"Data":"done"}', "Data at 0: not JSON: expecting value, came 'd'"),
            id="Data is a word",
        ),
        pytest.param(
            '{"Data":"7"}', JobResult(None, None, "7", '{"Data":"7"}', None), id="Data is a number in a string"
        ),
        pytest.param('{"Data":7}', JobResult(None, None, 7, '{"Data":7}', None), id="Data is a number"),
        pytest.param(
            '{"Code":"x","Data":""}', JobResult("x", None, {}, '{"Code":"x","Data":""}', None), id="empty Data"
        ),
        pytest.param(
            '{"Details":[],"Data":null}',
            JobResult(None, None, {"Details": []}, '{"Details":[],"Data":null}', None),
            id="null Data",
        ),
        pytest.param(
            '{"Message":"m","x":1}',
            JobResult(None, "m", {"Message": "m", "x": 1}, '{"Message":"m","x":1}', None),
            id="bare with a Message of its own",
        ),
        pytest.param(
            '"\0\ud800"',
            JobResult(
                None,
                None,
                '"\\u0000\\ud800"',
                '"\\u0000\\ud800"',
                "Result: the string '\\x00\\ud800' holds U+0000, which no store keeps",
            ),
            id="what no store keeps",
        ),
    ],
)
def test_each_rule(raw: JsonValue, expected: JobResult) -> None:
    """What came is kept, what could be read is unfolded, what could not has its reason."""
    assert read_result(raw, None) == expected


@pytest.mark.parametrize(
    ("output", "key", "url"),
    [
        pytest.param(OUTPUT, "a/b.mp4", f"{BASE}/a/b.mp4", id="a key"),
        pytest.param(OUTPUT, "/a.mp4", f"{BASE}/a.mp4", id="a key with a slash"),
        pytest.param(
            OUTPUT,
            "oss://other.oss-cn-beijing.aliyuncs.com/x",
            "oss://other.oss-cn-beijing.aliyuncs.com/x",
            id="a URL stays",
        ),
        pytest.param(OUTPUT, "", "", id="empty stays"),
        pytest.param(f"{VPC}/", "a", f"{VPC}/a", id="inside a VPC"),
        pytest.param(
            "oss://b.oss-cn-hangzhou.aliyuncs.com", "a", "oss://b.oss-cn-hangzhou.aliyuncs.com/a", id="no template"
        ),
        pytest.param("oss://b.oss-cn-hangzhou.aliyuncs.com.evil/x", "a", "a", id="another host"),
        pytest.param("oss://bucket/key", "a", "oss://bucket/a", id="the sister service's form"),
        pytest.param("oss://bucket", "a", "a", id="a bucket without a key"),
        pytest.param("oss://bucket.example.com/key", "a", "a", id="an endpoint elsewhere"),
        pytest.param("", "a", "a", id="no Output"),
        pytest.param(None, "a", "a", id="Output unknown"),
    ],
)
@pytest.mark.parametrize("name", ["file", "Url"])
def test_files_get_their_bucket(name: str, output: str | None, key: str, url: str) -> None:
    """A bare key is completed from Output; nothing is invented without one."""
    raw: JsonValue = {"Data": json.dumps({"result": [{name: key, "title": key, "n": {name: 7}}]})}
    assert read_result(raw, output).data == {"result": [{name: url, "title": key, "n": {name: 7}}]}


@pytest.mark.parametrize(
    "url", ["https://x/y", "http://169.254.169.254/", "file:///etc/passwd", "OSS://b/x", "s3://b/k"]
)
@pytest.mark.parametrize("name", ["file", "Url"])
def test_a_file_elsewhere_is_a_problem(name: str, url: str) -> None:
    """A result that names a file outside OSS stays text, with the reason."""
    text = json.dumps({"Code": "Success", "Data": json.dumps({"result": [{name: "a.jpg"}, {name: url}]})})
    found = read_result(text, OUTPUT)
    assert found.data == text
    assert found.problem is not None
    assert url in found.problem


NOT_WRITTEN = "oss fail to save the image in the given bucket"


@pytest.mark.parametrize(
    "result",
    [
        pytest.param({"Data": json.dumps([{"Url": "a.jpg"}, {"Url": NOT_WRITTEN}])}, id="a still"),
        pytest.param({"Data": json.dumps({"result": [{"file": NOT_WRITTEN}]})}, id="a file"),
        pytest.param({"Data": {"result": [{"file": f" {NOT_WRITTEN.upper()}."}]}}, id="in capitals, with more"),
        pytest.param({"Details": [{"Status": "Success", "Output": NOT_WRITTEN}]}, id="an output in the details"),
        pytest.param({"result": [{"file": NOT_WRITTEN}]}, id="without a head"),
    ],
)
def test_a_file_that_was_not_written_is_recognised(result: dict[str, JsonValue]) -> None:
    """A job that says Success and has written nothing has a text in place of a file, which never becomes a URL."""
    found = read_result({"Code": "Success", **result}, OUTPUT)
    assert (found.is_written, found.code) == (False, "OutputNotWritten")
    assert found.message is not None
    assert found.message.endswith("is the output bucket in the region of MPS?")
    assert "oss://" not in json.dumps(found.data)


def test_the_text_elsewhere_means_nothing() -> None:
    """The same text in a field that names no file is only text."""
    found = read_result({"Code": "Success", "Data": json.dumps([{"title": NOT_WRITTEN}])}, OUTPUT)
    assert (found.is_written, found.code) == (True, "Success")


def test_a_value_that_can_not_be_written() -> None:
    """A value from elsewhere that is no writable JSON is a problem, not a crash."""
    found = read_result({"a": 10**5000}, None)
    assert (found.data, found.text) == (None, "")
    assert found.problem is not None
    assert found.problem.startswith("Result: ")
    not_a_number = read_result({"a": float("nan")}, None)
    assert (not_a_number.data, not_a_number.problem) == ('{"a":NaN}', "Result: NaN is no JSON number")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Code", "Data", "Details", "file", "Url", "x"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(
    ANY_JSON | ANY_JSON.map(json.dumps) | ANY_JSON.map(lambda value: json.dumps({"Data": json.dumps(value)})), st.text()
)
def test_anything_gives_a_storable_result(raw: JsonValue, output: str) -> None:
    """No Result and no Output raise, and what is kept can be written."""
    found = read_result(raw, output)
    found.text.encode()
    json.dumps(found.data, ensure_ascii=False, allow_nan=False).encode()
    assert found.problem is None or found.problem.startswith(("Result", "Data"))
