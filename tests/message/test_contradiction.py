"""A notification compared with what is known of its job."""

from __future__ import annotations

import json

import pytest

from consumer.message.notification import Notification, contradictions, decode, same_state, same_user_data

JOB = {"Type": "IProduction", "FunctionName": "Cover", "JobId": "39f8", "State": "Success"}


def read(**more: str) -> Notification:
    found = decode(json.dumps({**JOB, **more}).encode())
    assert isinstance(found, Notification)
    return found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Success", "success", True),
        ("Succes", "Success", True),
        ("Success", "Fail", False),
        ("Completed", "completed", True),
        ("Completed", "Success", False),
        ("", "", True),
    ],
)
def test_states_are_compared_by_what_they_mean(*, one: str, other: str, same: bool) -> None:
    """Spelling and case of a state make no difference, another end does."""
    assert same_state(one, other) is same
    assert same_state(other, one) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (None, "", True),
        (None, "null", True),
        ("a", "a", True),
        ("a", None, False),
        ("1", "1.0", False),
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}', True),
        ('{\\"a\\":1}', '{"a":1}', True),
        ('{"a":1}', '{"a":2}', False),
    ],
)
def test_user_data_is_compared_by_what_it_says(*, one: str | None, other: str | None, same: bool) -> None:
    """A layer of escaping and the order of keys make no difference, another value does."""
    assert same_user_data(one, other) is same


def test_each_difference_is_named() -> None:
    """Function, state and UserData are compared, and each difference names both values."""
    found = contradictions(read(UserData="a"), function="VideoClip", state="Fail", user_data="b")
    assert list(found) == [
        "FunctionName is 'Cover', not 'VideoClip'",
        "State is 'Success', not 'Fail'",
        "UserData is 'a', not 'b'",
    ]


def test_what_agrees_is_no_contradiction() -> None:
    """A notification that says the same, or says nothing of UserData, contradicts nothing."""
    assert not contradictions(read(UserData="a"), function="Cover", state="Success", user_data="a")
    assert not contradictions(read(), function="Cover", state="Succes", user_data="a")


def test_what_a_job_does_not_have_is_a_contradiction() -> None:
    """UserData of a job that was submitted without any, and a job without a function, are differences."""
    assert contradictions(read(UserData="a"), function="Cover", state="Success", user_data=None)
    assert contradictions(read(), function=None, state="Success", user_data=None)
