"""By what messages are handled: settings, handlers and what follows from both.

Replaced as a whole by a reload; a message keeps those that it began with to its end.

Elsewhere: what a reload may change (``config.RELOADED``), when it happens (``reload``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from consumer.config import Policy
from consumer.engine.invoke import CallLimits
from consumer.plugin.handler import Handler
from consumer.plugin.registry import Registry
from consumer.policy import RetryPolicy, TrustPolicy


@dataclass(slots=True, eq=False)
class Rules:
    """One set of them, shared by all lanes.

    Args:
        policy: The settings that the engine obeys.
        registry: The handlers.
        turns: What the handlers wait for that limit how many of them run at once, by name.
        retry: The settings' rules for failures.
        trust: How far a notification is believed.
    """

    policy: Policy
    registry: Registry
    turns: Mapping[str, anyio.CapacityLimiter]
    retry: RetryPolicy = field(init=False)
    trust: TrustPolicy = field(init=False)
    _limits: dict[str, CallLimits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put together once what each message asks for."""
        self.retry = self.policy.retry
        self.trust = self.policy.trust

    def limits_of(self, handler: Handler) -> CallLimits:
        """The time that one run of a handler has."""
        if found := self._limits.get(handler.name):
            return found
        own, policy = handler.limits, self.policy
        timeout_s = own.timeout_s or policy.handler_timeout_s
        made = CallLimits(
            timeout_s=timeout_s,
            max_hold_s=max(timeout_s, own.max_hold_s or policy.max_hold_s),
            grace_s=policy.cancel_grace_s,
        )
        return self._limits.setdefault(handler.name, made)

    def retry_of(self, handler: Handler | None) -> RetryPolicy:
        """What holds for the failures of a handler."""
        if handler is None or handler.limits.max_failures is None:
            return self.retry
        return RetryPolicy(handler.limits.max_failures, self.retry.base_s, self.retry.cap_s)


def make_rules(policy: Policy, registry: Registry, before: Rules | None = None) -> Rules:
    """Put a set together.

    Args:
        policy: The settings that the engine obeys.
        registry: The handlers.
        before: Those that are replaced; a handler that is in both waits for the same turn as what still runs of it.
    """
    turns = {}
    for name, handler in registry.handlers.items():
        if (most := handler.limits.concurrency) is not None:
            turn = before.turns.get(name) if before else None
            turns[name] = turn or anyio.CapacityLimiter(most)
            turns[name].total_tokens = most
    return Rules(policy, registry, turns)
