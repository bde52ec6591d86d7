"""Submit jobs, each recorded before it is sent, and wait for their ends.

from mns_consumer.client import Client
from mns_consumer.functions import CoverParams

async with Client() as client:
    job = await client.submit(CoverParams(model="gif"), input="oss://...", output="oss://...", ref="film-7")
    end = await client.wait(job)
    print(end.result)
"""

from consumer.client import Client as Client
from consumer.client import SyncClient as SyncClient
from consumer.errors import CloudError as CloudError
from consumer.plugin.submission import RequestOptions as RequestOptions
from consumer.plugin.submission import SubmittedJob as SubmittedJob
from consumer.submissions.result import EndedJob as EndedJob
from consumer.submissions.submitter import RequestRefusedError as RequestRefusedError
from consumer.submissions.submitter import SubmissionUnknown as SubmissionUnknown

__all__ = [
    "Client",
    "CloudError",
    "EndedJob",
    "RequestOptions",
    "RequestRefusedError",
    "SubmissionUnknown",
    "SubmittedJob",
    "SyncClient",
]
