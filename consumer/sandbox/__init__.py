"""A local MNS, MPS and IMS for the daemon, the demo and users' own tests: no account, no SDK, nothing of the daemon.

``consumer/README.md`` says where things are.
"""

from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.jobs import SandboxJob
from consumer.sandbox.queue import DlqPolicy
from consumer.sandbox.server import Sandbox
from consumer.sandbox.settings import SandboxSettings

__all__ = ["DlqPolicy", "Fault", "Faults", "Sandbox", "SandboxJob", "SandboxSettings"]
