"""SAQ with a task that does nothing, on Redis.

python -m tests.bench.others_saq COUNT                 send tasks
python -m saq tests.bench.others_saq.settings          run the tasks
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from saq import Queue

from tests.bench import others_task

queue: Final = Queue.from_url(others_task.REDIS, name=others_task.NAME)


async def nothing(_context: Any, *, number: int) -> None:
    """Do nothing."""
    others_task.nothing(number)


settings: Final = {"queue": queue, "functions": [nothing], "concurrency": 10}


async def send(count: int) -> None:
    """Send tasks."""
    await queue.connect()
    for number in range(count):
        await queue.enqueue("nothing", number=number)
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1])))
