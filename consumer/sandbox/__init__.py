"""A local MNS and MPS: what the daemon, the demo and users' own tests talk to without a cloud account.

This file only hands names on. What it is: ``server`` (the life of the server), ``settings`` (what can be
set), ``faults`` (what can be made to go wrong), ``control`` (all of that over HTTP).
"""

from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.jobs import GivenJob
from consumer.sandbox.server import Sandbox
from consumer.sandbox.settings import DlqPolicy, SandboxSettings

__all__ = ["DlqPolicy", "Fault", "Faults", "GivenJob", "Sandbox", "SandboxSettings"]
