"""mns-consumer: the daemon that takes MPS's job notifications from MNS queues.

This is the public face, all that a handler needs:

    from consumer import Job, handler, Reject, Retry, JobFailed

and, for the models of results, the forms that several functions share:

    from consumer import FilesResult, DetailsResult, AnyResult, ResultModel, ResultFile

Names are handed on only when asked for, so that importing ``consumer.sandbox`` loads nothing of the daemon.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.plugin.families import AnyResult as AnyResult
    from consumer.plugin.families import DetailsResult as DetailsResult
    from consumer.plugin.families import FilesResult as FilesResult
    from consumer.plugin.families import ResultFile as ResultFile
    from consumer.plugin.families import ResultModel as ResultModel
    from consumer.plugin.handler import handler as handler
    from consumer.plugin.job import Job as Job
    from consumer.plugin.job import JobFailed as JobFailed
    from consumer.plugin.job import Reject as Reject
    from consumer.plugin.job import Retry as Retry

_HOMES = {
    "Job": "consumer.plugin.job",
    "JobFailed": "consumer.plugin.job",
    "Reject": "consumer.plugin.job",
    "Retry": "consumer.plugin.job",
    "handler": "consumer.plugin.handler",
    "FilesResult": "consumer.plugin.families",
    "DetailsResult": "consumer.plugin.families",
    "AnyResult": "consumer.plugin.families",
    "ResultModel": "consumer.plugin.families",
    "ResultFile": "consumer.plugin.families",
}

__all__ = [
    "AnyResult",
    "DetailsResult",
    "FilesResult",
    "Job",
    "JobFailed",
    "Reject",
    "ResultFile",
    "ResultModel",
    "Retry",
    "handler",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'consumer' has no attribute {name!r}; it hands on {', '.join(_HOMES)}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
