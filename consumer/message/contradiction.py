"""Compare what a notification says of a job with what is known of the job.

Anyone who may send to the queue can write a notification. What MPS says of the job, or what an earlier notification
said that was handled, is held against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.message.notification import Notification, phase_of
from consumer.message.strict_json import agree
from consumer.message.unreadable import shown
from consumer.message.user_data import decode_user_data


def contradictions(
    notification: Notification,
    *,
    function: str | None,
    state: str | None,
    user_data: str | None,
    job_id: str | None = None,
) -> Sequence[str]:
    """What a notification says otherwise.

    Args:
        notification: It.
        function: The FunctionName that is known, or the kind's name of a message of another kind.
        state: The State that is known.
        user_data: The text of UserData that is known; ``None`` where the job has none.
        job_id: The JobId that is known; ``None`` for the notification's own.

    Returns:
        One phrase for each difference, with both values cut. UserData that the notification leaves out is none.
    """
    came = notification.user_data_text
    compared = (
        ("JobId", notification.job_id, job_id, job_id is None or notification.job_id == job_id),
        ("FunctionName", notification.route, function, notification.route == function),
        ("State", notification.state, state, same_state(notification.state, state or "")),
        ("UserData", came, user_data, came is None or same_user_data(came, user_data)),
    )
    return [
        f"{name} is {shown(said or '')}, not {shown(known or '')}" for name, said, known, same in compared if not same
    ]


def same_state(one: str, other: str) -> bool:
    """Whether two texts of State mean the same end of a job."""
    if one.lower() == other.lower():
        return True
    phase = phase_of(one)
    return phase is not None and phase is phase_of(other)


def same_user_data(one: str | None, other: str | None) -> bool:
    """Whether two texts of UserData say the same, whatever layer of escaping either has."""
    return one == other or agree(decode_user_data(one), decode_user_data(other))
