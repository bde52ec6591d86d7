"""mns-consumer: the daemon that consumes the job notifications of Alibaba Cloud MPS from MNS queues.

This package is the implementation. Users import ``mns_consumer`` (``consumer/public``); the names below are the same
objects, kept for handlers that import them from here. They are imported when they are first asked for, so that
``consumer.sandbox`` loads nothing of the daemon.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.functions.catalogue import AnyResult as AnyResult
    from consumer.functions.catalogue import DetailsResult as DetailsResult
    from consumer.functions.catalogue import FilesResult as FilesResult
    from consumer.functions.catalogue import ResultFile as ResultFile
    from consumer.functions.catalogue import ResultModel as ResultModel
    from consumer.plugin.handler import Job as Job
    from consumer.plugin.handler import JobFailed as JobFailed
    from consumer.plugin.handler import Reject as Reject
    from consumer.plugin.handler import Retry as Retry
    from consumer.plugin.handler import handler as handler

_HOMES = {
    "consumer.functions.catalogue": ("AnyResult", "DetailsResult", "FilesResult", "ResultFile", "ResultModel"),
    "consumer.plugin.handler": ("Job", "JobFailed", "Reject", "Retry", "handler"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'consumer' has no attribute {name!r}")
