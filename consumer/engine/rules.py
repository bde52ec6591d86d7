"""The policy and the handlers that apply to a message, and the limits that follow from both.

A reload replaces them as a whole; a message keeps those that it started with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import anyio

from consumer.config import Policy
from consumer.engine.invoke import CallLimits
from consumer.plugin.handler import Handler
from consumer.plugin.registry import Registry
from consumer.policy import RetryPolicy


@dataclass(slots=True, eq=False)
class Rules:
    """Policy and handlers, shared by all lanes.

    Args:
        policy: The settings that the engine obeys.
        registry: The handlers.
        turns: The limiter of each handler that limits its runs at once, by name.
    """

    policy: Policy
    registry: Registry
    turns: Mapping[str, anyio.CapacityLimiter]

    def limits_of(self, handler: Handler) -> CallLimits:
        """The time limits of one run of a handler."""
        own, policy = handler.limits, self.policy
        timeout_s = own.timeout_s or policy.handler_timeout_s
        return CallLimits(
            timeout_s=timeout_s,
            max_hold_s=max(timeout_s, own.max_hold_s or policy.max_hold_s),
            grace_s=policy.cancel_grace_s,
        )

    def retry_of(self, handler: Handler | None) -> RetryPolicy:
        """The rules for a handler's failures."""
        if handler is None or handler.limits.max_failures is None:
            return self.policy.retry
        return replace(self.policy.retry, max_failures=handler.limits.max_failures)


def make_rules(policy: Policy, registry: Registry, before: Rules | None = None) -> Rules:
    """Make the rules.

    Args:
        policy: The settings that the engine obeys.
        registry: The handlers.
        before: The rules that these replace. A handler in both keeps its limiter, which counts its old runs, too.
    """
    turns = {}
    for name, handler in registry.handlers.items():
        if (most := handler.limits.concurrency) is not None:
            turn = before.turns.get(name) if before else None
            turns[name] = turn or anyio.CapacityLimiter(most)
            turns[name].total_tokens = most
    return Rules(policy, registry, turns)
