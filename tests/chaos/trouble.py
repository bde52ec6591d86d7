"""Every fault of the sandbox, in an order of the seed's own.

What hits whole requests has its turn for a moment, for a few of them, so that each kind has its share of a run
however long it is, and work goes on in between. What hits single messages and jobs is always on, with a small chance.

Elsewhere: what each kind does (``consumer.sandbox.faults``), killing daemons (``driver``).
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from typing import Final

import anyio

from consumer.sandbox import Fault, Sandbox
from tests.chaos.stores import StoreUnderTest

REFUSED: Final = "refused"
"""Our own word for connections that are refused: no rule of the sandbox's, a state of its listener."""
STORE: Final = "store_down"
"""Our own word for a store that takes no calls for a while."""

_REFUSED_S: Final = 0.3
_EVERY_S: Final = 0.25
_ON_AT_ONCE: Final = 2

REQUESTS: Final = tuple(
    Fault.parse(text)
    for text in (
        "latency:operations=mns+mps,seconds=0.05,jitter_s=0.3,count=6",
        "error:operations=mns,status=500,count=2",
        "error:operations=mns,status=503,xml=false,count=2",
        "error:operations=mns,status=429,count=1",
        "error:operations=delete,status=403,code=AccessDenied,count=1",
        "error:operations=query,status=500,count=1",
        "error:operations=query,status=503,xml=false,count=1",
        "error:operations=query,status=429,code=Throttling.User,count=1",
        "html:operations=mns,status=502,count=2",
        "html:operations=receive+delete,status=200,count=1",
        "html:operations=query,status=502,count=1",
        "redirect:operations=mns,count=1",
        "drop:operations=mns,count=2",
        "drop:operations=query,count=1",
        "hang:operations=mns,seconds=1,count=1",
        "early_empty:count=2",
        "drop_after:operations=receive,count=1",
        "drop_after:operations=hide+delete,count=2",
        "hang_after:operations=mns,seconds=1,count=1",
        "truncate:operations=receive,count=1",
        "truncate:operations=mns+query,count=1",
        "no_request_id:operations=mns,count=1",
    )
)
"""What hits whole requests, each in its turn."""

MESSAGES: Final = tuple(
    Fault.parse(text)
    for text in (
        "entry_error:operations=delete,probability=0.05",
        "duplicate:probability=0.05",
        "revoke:seconds=0.1,probability=0.03",
        "revoke:seconds=1,probability=0.03",
        "notification_twice:probability=0.04",
        "notification_lost:probability=0.03",
        "job_stuck:probability=0.03",
    )
)
"""What hits single messages and jobs, all the time."""

KINDS: Final = (*dict.fromkeys(rule.kind for rule in (*REQUESTS, *MESSAGES)), REFUSED, STORE)


class Trouble:
    """Makes things go wrong, until cancelled.

    Args:
        sandbox: Where.
        store: The store, which has its share of it.
        starting: Held while a daemon starts: one that finds no store then ends, as it should.
        seed: Of the order.
    """

    def __init__(self, sandbox: Sandbox, store: StoreUnderTest, starting: anyio.Lock, seed: int) -> None:
        self._sandbox = sandbox
        self._store = store
        self._starting = starting
        self._store_failed = 0
        self._store_back_at = 0.0
        self._dice = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secret
        self._refused = 0

    @property
    def applied(self) -> Counter[str]:
        """How often each kind hit."""
        return self._sandbox.faults.applied + Counter({REFUSED: self._refused, STORE: self._store_failed})

    async def run(self) -> None:
        """Go through all kinds again and again, in a new order each time."""
        on: list[Fault] = []
        for number in itertools.count(1):
            own = (REFUSED, STORE) if number % self._store.every == 0 else (REFUSED,)
            turns = (*REQUESTS, *own)
            for rule in self._dice.sample(turns, len(turns)):
                if rule == REFUSED:
                    self._refused += 1
                    await self._sandbox.refuse_connections(_REFUSED_S)
                elif rule == STORE:
                    await self._fail_store()
                elif isinstance(rule, Fault):
                    # Used up or not, what had its time goes: piled up, they would let nothing pass, and try nothing.
                    on = [*on, rule][-_ON_AT_ONCE:]
                    self._sandbox.faults.set((*MESSAGES, *on))
                await anyio.sleep(_EVERY_S)

    async def _fail_store(self) -> None:
        # The end of trouble must not leave the store down.
        with anyio.CancelScope(shield=True):
            async with self._starting:
                self._store_back_at = math.inf
                async with self._store.failing(self._dice):
                    self._store_failed += 1
                self._store_back_at = time.time()

    def store_was_down(self, since: float) -> bool:
        """Whether the store was down at any moment since then, UNIX seconds."""
        return self._store_back_at >= since

    def end(self) -> None:
        """Leave the rest in peace."""
        self._sandbox.faults.clear()
