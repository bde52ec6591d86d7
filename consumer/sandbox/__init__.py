"""A local MNS and MPS for the daemon, the demo and users' own tests: no cloud account, no SDK, nothing of the daemon.

Elsewhere: ``server`` (start, stop, the way of a request), ``settings`` (what can be set), ``faults`` (what can go
wrong), ``control`` (all of that over HTTP), ``mns_api`` and ``mps_api`` (the two services).
"""

from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.jobs import SandboxJob
from consumer.sandbox.queue import DlqPolicy
from consumer.sandbox.server import Sandbox
from consumer.sandbox.settings import SandboxSettings

__all__ = ["DlqPolicy", "Fault", "Faults", "Sandbox", "SandboxJob", "SandboxSettings"]
