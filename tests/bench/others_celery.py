"""Celery with a task that does nothing, on Redis, acknowledged late, so that a crash loses no task.

python -m tests.bench.others_celery COUNT                   send tasks
python -m celery -A tests.bench.others_celery worker        run the tasks
"""

from __future__ import annotations

import sys
from typing import Final

from celery import Celery

from tests.bench import others_task

app: Final = Celery("bench", broker=others_task.REDIS)
app.conf.update(
    broker_transport_options={"global_keyprefix": others_task.NAME},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
)
nothing: Final = app.task(others_task.nothing, name="nothing")


def send(count: int) -> None:
    """Send tasks."""
    for number in range(count):
        nothing.delay(number)


if __name__ == "__main__":
    send(int(sys.argv[1]))
