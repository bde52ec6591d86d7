"""The policies: the retry delay's ceiling, the defaults, and the values that become labels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.config import Policy
from consumer.policy import MAX_HIDE_S, MIN_HIDE_S, Reason, RetryPolicy, UnroutedPolicy


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (9, 3600), (1_000_000, 3600)]
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, ceiling_s: float) -> None:
    """By default the ceiling is 30 s, doubled by each failure, and at most an hour."""
    assert RetryPolicy().ceiling_s(failures) == ceiling_s


@given(base_s=st.floats(0.001, 1e7), cap_s=st.floats(0.001, 1e7), failures=st.integers(1, 10**9))
def test_the_ceiling_never_falls_and_never_exceeds_the_cap(base_s: float, cap_s: float, failures: int) -> None:
    """One more failure never lowers the ceiling, and no ceiling is above the cap."""
    policy = RetryPolicy(base_s=base_s, cap_s=cap_s)
    assert 0 < policy.ceiling_s(failures) <= policy.ceiling_s(failures + 1) <= cap_s


def test_mns_accepts_the_default_lease() -> None:
    """The default lease times are in the range that MNS allows."""
    assert MIN_HIDE_S <= Policy().lease_step_s <= Policy().max_hold_s <= MAX_HIDE_S


def test_words_can_be_labels() -> None:
    """Reasons and policies are lower-case words, equal to their members' names."""
    for word in (*Reason, *UnroutedPolicy):
        assert re.fullmatch(r"[a-z_]+", word)
        assert word == word.name.lower()
