"""Taskiq with a task that does nothing, on a Redis stream, its broker with acknowledgements.

python -m tests.bench.others_taskiq COUNT                       send tasks
python -m taskiq worker tests.bench.others_taskiq:broker        run the tasks
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from taskiq_redis import RedisStreamBroker

from tests.bench import others_task

broker: Final = RedisStreamBroker(others_task.REDIS, queue_name=others_task.NAME, consumer_group_name=others_task.NAME)


async def _nothing(number: int) -> None:
    others_task.nothing(number)


nothing: Final = broker.register_task(_nothing, task_name="nothing")


async def send(count: int) -> None:
    """Send tasks."""
    await broker.startup()
    for number in range(count):
        await nothing.kiq(number)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1])))
