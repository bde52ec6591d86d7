"""Dramatiq with an actor that does nothing, on Redis.

python -m tests.bench.others_dramatiq COUNT              send tasks
python -m dramatiq tests.bench.others_dramatiq           run the tasks
"""

from __future__ import annotations

import sys
from typing import Final

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench import others_task

broker: Final = RedisBroker(url=others_task.REDIS, namespace=others_task.NAME)
dramatiq.set_broker(broker)
nothing: Final = dramatiq.actor(others_task.nothing, actor_name="nothing", queue_name="nothing")


def send(count: int) -> None:
    """Send tasks."""
    for number in range(count):
        nothing.send(number)


if __name__ == "__main__":
    send(int(sys.argv[1]))
