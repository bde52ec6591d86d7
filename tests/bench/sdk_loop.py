"""A loop on aliyun-mns-sdk: what a user writes without mns-consumer. A program of its own.

    python tests/bench/sdk_loop.py MODE ENDPOINT QUEUE

    sample     the vendor's documented loop: receive one by a long poll, decode it, delete it
    batch      receive sixteen, decode each, delete them by one call
    threads    four threads of batch with an Account each, since an Account is not thread-safe

A message is decoded as far as for a handler of mns-consumer: base64, which the SDK does by default, then the JSON of
the notification and of its UserData. The SDK gets no logger: at debug it prints.

If ``BENCH_DELAYS`` is set, the time since the send of each message is appended to that file: nanoseconds, one line
each.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from mns.account import Account
from mns.mns_exception import MNSServerException

_WAIT_S: Final = 30
_BATCH: Final = 16
_THREADS: Final = 4
_EMPTY: Final = "MessageNotExist"
_DELAYS: Final = os.environ.get("BENCH_DELAYS")


def _no_work(_user_data: Any) -> None:
    pass


def _note_delay(out: int) -> Callable[[Any], None]:
    def note(user_data: Any) -> None:
        now_ns = time.time_ns()
        os.write(out, f"{now_ns - user_data['sent_ns']}\n".encode())

    return note


_handle: Final = _note_delay(os.open(_DELAYS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)) if _DELAYS else _no_work


def _handled(body: bytes) -> None:
    notification = json.loads(body)
    _handle(json.loads(notification["UserData"]))


def _sample(queue: Any) -> None:
    while True:
        try:
            message = queue.receive_message(_WAIT_S)
        except MNSServerException as error:
            if error.type != _EMPTY:
                raise
            continue
        _handled(message.message_body)
        queue.delete_message(message.receipt_handle)


def _batch(queue: Any) -> None:
    while True:
        try:
            messages = queue.batch_receive_message(_BATCH, _WAIT_S)
        except MNSServerException as error:
            if error.type != _EMPTY:
                raise
            continue
        for message in messages:
            _handled(message.message_body)
        queue.batch_delete_message([message.receipt_handle for message in messages])


def main(mode: str, endpoint: str, name: str) -> None:
    """Run until killed."""

    def work(loop: Callable[[Any], None]) -> None:
        try:
            # Threads that share an Account get each other's messages.
            loop(Account(endpoint, "sandbox", "sandbox").get_queue(name))
        except Exception:  # noqa: BLE001 - it is printed and ends the process
            traceback.print_exc()
            # Without this the other threads would continue and be measured as if they were all.
            os._exit(1)

    loop = _sample if mode == "sample" else _batch
    for _ in range(_THREADS - 1 if mode == "threads" else 0):
        threading.Thread(target=work, args=(loop,)).start()
    work(loop)


if __name__ == "__main__":
    main(*sys.argv[1:])
