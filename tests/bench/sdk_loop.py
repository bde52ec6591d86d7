"""What a user writes who does not take this program: a loop on aliyun-mns-sdk. Run as a process of its own.

    sample     the vendor's documented loop: receive one by a long poll, decode it, delete it
    batch      sixteen at a time, decode each, delete them by one call
    threads    four threads of batch, an Account each, since an Account is not safe to share

Decoding is what a handler of mns-consumer gets as well: base64 by the SDK's own default, then the notification's JSON
and its UserData's. No logger is given to the SDK: at debug it prints.

    python tests/bench/sdk_loop.py MODE ENDPOINT QUEUE

With ``BENCH_DELAYS`` in the environment the time from send to here is written to that file, nanoseconds, a line each.
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
    """Work until killed."""

    def work(loop: Callable[[Any], None]) -> None:
        try:
            # An Account of its own: of those that share one, each gets the others' messages.
            loop(Account(endpoint, "sandbox", "sandbox").get_queue(name))
        except Exception:  # noqa: BLE001 - told, and the end of it all
            traceback.print_exc()
            # One thread that fails must not leave a slower contestant behind that looks like a whole one.
            os._exit(1)

    loop = _sample if mode == "sample" else _batch
    for _ in range(_THREADS - 1 if mode == "threads" else 0):
        threading.Thread(target=work, args=(loop,)).start()
    work(loop)


if __name__ == "__main__":
    main(*sys.argv[1:])
