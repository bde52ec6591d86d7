"""A job built by hand, as in users' tests of their handlers."""

from __future__ import annotations

from mns_consumer import Job


def test_a_subscripted_job_can_be_built() -> None:
    """``Job[int, str](...)`` builds the same job as ``Job(...)``."""
    job = Job[int, str](
        function="Cover",
        job_id="1",
        state="Success",
        failed=False,
        code=None,
        message=None,
        user_data="x",
        result_or_none=7,
    )
    assert (job.result, job.user_data) == (7, "x")
