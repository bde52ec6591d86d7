"""A job to submit, checked by the rules of its function before anything is sent.

from mns_consumer.functions import CoverParams
from mns_consumer.request import JobRequest

request = JobRequest(params=CoverParams(model="gif"), input="oss://...", output="oss://...")
for finding in request.findings():
    print(finding.level, finding)
"""

from consumer.functions.finding import FindingLevel as FindingLevel
from consumer.functions.finding import RequestFinding as RequestFinding
from consumer.functions.finding import refused as refused
from consumer.functions.request import Destination as Destination
from consumer.functions.request import JobRequest as JobRequest

__all__ = ["Destination", "FindingLevel", "JobRequest", "RequestFinding", "refused"]
