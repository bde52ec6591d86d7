"""The shared result forms: what each keeps, refuses and summarises, and how a model extends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, JsonValue, ValidationError

from mns_consumer.functions import AnyResult, DetailsResult, FilesResult, ResultFile, ResultModel

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NO_FILE = "no file named, see the output of the job"


@pytest.mark.parametrize(
    ("model", "data", "summary"),
    [
        pytest.param(FilesResult, {"result": []}, "files: 0, first: none", id="no file"),
        pytest.param(FilesResult, {"result": [{"file": "oss://b/1"}]}, "files: 1, first: oss://b/1", id="a file"),
        pytest.param(
            FilesResult, {"result": [{"file": "1"}, {"file": "2"}]}, "files: 2, first: 1", id="the first of two files"
        ),
        pytest.param(DetailsResult, {}, f"details: 0, {NO_FILE}", id="no details"),
        pytest.param(DetailsResult, {"Details": [{}]}, f"details: 1, {NO_FILE}", id="an empty detail"),
        pytest.param(
            DetailsResult,
            {"Details": [{"Output": ""}, {"Output": {"Bucket": "b"}}, {"Output": "c"}, {"Output": "d"}]},
            "details: 4, c",
            id="the first output that is a text",
        ),
        pytest.param(AnyResult, None, "null", id="nothing"),
        pytest.param(AnyResult, {"a": ["副歌"]}, '{"a": ["副歌"]}', id="any JSON"),
        pytest.param(AnyResult, "x" * 118, '"' + "x" * 118 + '"', id="as long as is shown"),
        pytest.param(AnyResult, "x" * 119, '"' + "x" * 119 + "...", id="longer than is shown"),
    ],
)
def test_summaries(model: type[FilesResult | DetailsResult | AnyResult], data: JsonValue, summary: str) -> None:
    """Each form has a summary of one line."""
    assert model.model_validate(data).summary() == summary


@pytest.mark.parametrize(
    ("model", "data"),
    [
        pytest.param(FilesResult, {}, id="files that are not there"),
        pytest.param(FilesResult, {"result": None}, id="null for files"),
        pytest.param(FilesResult, {"result": [{"file": ""}]}, id="a file without a name"),
        pytest.param(FilesResult, {"result": [{"start": 1}]}, id="a part of a song for a file"),
        pytest.param(DetailsResult, {"Details": None}, id="null for details"),
        pytest.param(DetailsResult, {"Details": [{"Status": 1}]}, id="a status that is a number"),
        pytest.param(DetailsResult, "{broken", id="text for an object"),
    ],
)
def test_what_does_not_fit_is_refused(model: type[ResultModel], data: JsonValue) -> None:
    """Data that does not fit a form is refused, so that its message is set aside and can be replayed."""
    with pytest.raises(ValidationError):
        model.model_validate(data)


@given(known=st.lists(st.text(min_size=1), max_size=4), more=st.dictionaries(st.text(), JSON, max_size=3))
def test_what_no_page_names_is_kept(known: list[str], more: dict[str, JsonValue]) -> None:
    """Fields that are not documented are kept as they came, at the top and in each part."""
    files = {**more, "result": [{**more, "file": key} for key in known]}
    details = {**more, "Details": [{**more, "Status": key, "Input": None, "Output": key} for key in known]}
    # A name that is one of Python's own spellings of a documented field is read as that field.
    if more.keys().isdisjoint({"files", "url", "details", "status", "input", "output"}):
        assert FilesResult.model_validate(files).model_dump(by_alias=True) == files
        assert DetailsResult.model_validate(details).model_dump(by_alias=True) == details


@given(JSON)
def test_any_json_is_kept_and_summed_up(data: JsonValue) -> None:
    """Any JSON is kept unchanged; its summary is JSON in one line of at most 123 characters."""
    found = AnyResult.model_validate(data)
    assert found.root == data
    assert len(found.summary()) <= 123
    assert json.dumps(data, ensure_ascii=False).startswith(found.summary().removesuffix("..."))
    assert "\n" not in found.summary()


class Page(ResultFile):
    """A file of a function that is not shipped, with its number."""

    number: int = Field(alias="No")


class PagesResult(FilesResult):
    """A result with files and one more file in a field of its own."""

    cover: Page = Field(alias="Cover")


def test_a_form_can_be_extended() -> None:
    """A user's model adds fields to a form; both spellings and the summary still work."""
    found = PagesResult.model_validate({"result": [{"file": "oss://b/1"}], "Cover": {"file": "oss://b/2", "No": "7"}})
    assert (found.cover.url, found.cover.number) == ("oss://b/2", 7)
    assert found.summary() == "files: 1, first: oss://b/1"
    assert found == PagesResult(files=[ResultFile(url="oss://b/1")], cover=Page(url="oss://b/2", number=7))
