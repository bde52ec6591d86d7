"""Say everything that keeps the daemon from starting at once, not one thing a try.

Elsewhere: the settings' own problems (``config``), the handlers' (``plugin.registry``).
"""

from __future__ import annotations

from consumer.config import Settings
from consumer.daemon import sources_of
from consumer.errors import SettingsError
from consumer.notify_url import EXPECTED
from consumer.plugin.registry import Registry, discover
from consumer.settings_sources import PREFIX


def missing_queue(settings: Settings) -> list[str]:
    """The line that says which setting names a queue; none when one is named."""
    if settings.all_lanes():
        return []
    return [f"notify_url: expected at least one queue, got none; say --notify-url {EXPECTED} or set {PREFIX}NOTIFY_URL"]


def handlers_and_queues(settings: Settings) -> Registry:
    """Find the handlers, and see that a queue is named.

    Raises:
        SettingsError: One line for each problem.
    """
    problems = missing_queue(settings)
    try:
        registry = discover(sources_of(settings))
    except SettingsError as error:
        raise SettingsError(*problems, *error.problems) from error
    if problems:
        raise SettingsError(*problems)
    return registry
