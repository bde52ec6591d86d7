"""Rules of the one calculation among the policies, and of the words that become labels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.policy import MAX_HIDE_S, MIN_HIDE_S, LeasePolicy, Reason, RetryPolicy, UnroutedPolicy


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (9, 3600), (1_000_000, 3600)]
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, ceiling_s: float) -> None:
    """By default the delay's upper end is 30 s, doubled by each failure, and never more than an hour."""
    assert RetryPolicy().ceiling_s(failures) == ceiling_s


@given(base_s=st.floats(0.001, 1e7), cap_s=st.floats(0.001, 1e7), failures=st.integers(1, 10**9))
def test_the_ceiling_never_falls_and_never_passes_the_cap(base_s: float, cap_s: float, failures: int) -> None:
    """For any policy one failure more never means a shorter upper end, nor one above the cap."""
    policy = RetryPolicy(base_s=base_s, cap_s=cap_s)
    assert 0 < policy.ceiling_s(failures) <= policy.ceiling_s(failures + 1) <= cap_s


def test_defaults_are_what_mns_takes() -> None:
    """The lease's defaults are times for which MNS hides a message."""
    assert MIN_HIDE_S <= LeasePolicy().step_s <= LeasePolicy().max_s <= MAX_HIDE_S


def test_words_can_be_labels() -> None:
    """Reasons and policies are lower-case words, each its own member's name."""
    for word in (*Reason, *UnroutedPolicy):
        assert re.fullmatch(r"[a-z_]+", word)
        assert word == word.name.lower()
