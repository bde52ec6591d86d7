"""What a handler needs. The models of parameters and results are in ``mns_consumer.functions``.

from mns_consumer import Job, handler
from mns_consumer.functions import CoverResult

@handler("Cover")
async def cover(job: Job[CoverResult]) -> None:
print(job.result.best)
"""

from consumer.plugin.handler import Job as Job
from consumer.plugin.handler import JobFailed as JobFailed
from consumer.plugin.handler import Reject as Reject
from consumer.plugin.handler import Retry as Retry
from consumer.plugin.handler import Wait as Wait
from consumer.plugin.handler import handler as handler
from consumer.plugin.letter_hook import Letter as Letter
from consumer.plugin.letter_hook import on_dead_letter as on_dead_letter

__all__ = ["Job", "JobFailed", "Letter", "Reject", "Retry", "Wait", "handler", "on_dead_letter"]
