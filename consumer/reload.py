"""Take new settings and handlers into a daemon that runs: looked at first, then taken as a whole or not at all.

Messages that have begun go on by what they began with. Where anything is wrong, or a setting has changed that only a
restart can change, the old ones are kept, the log says why in one line for each problem, and a metric counts it.

Elsewhere: by what messages are handled (``engine.rules``), the signal (``daemon``), reading the settings (``config``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import anyio.to_thread
import structlog

from consumer.app import App
from consumer.config import Settings
from consumer.errors import ConsumerError, SettingsError, lacks_threads
from consumer.ops.metrics import ReloadResult
from consumer.plugin.loading import forget
from consumer.plugin.registry import Registry

log = structlog.stdlib.get_logger(__name__)

Read: TypeAlias = Callable[[], tuple[Settings, Registry]]
"""Reads settings and handlers anew; raises ``ConsumerError`` where something is wrong."""

_KEYS: Final = ("access_key_id", "access_key_secret", "security_token")
RELOADED: Final = frozenset(
    {
        *_KEYS,
        *("handlers_dir", "handler_modules", "handler_entry_points", "shipped", "unrouted"),
        *("verify", "trust_inline_result"),
        *(
            "handler_timeout_s",
            "max_hold_s",
            "cancel_grace_s",
            "stuck_limit",
            "max_failures",
            "retry_base_s",
            "retry_cap_s",
            "result_wait_s",
        ),
        *("wait_s", "max_polls", "lease_step_s", "job_retention_s", "dead_letter_retention_s"),
        *("dead_letters_max", "dead_letters_max_bytes"),
        *("log_level", "log_format"),
    }
)
"""The settings that a reload changes; the others are those of queues, store, slots, stop and admin server."""


async def reload(app: App, read: Read) -> bool:
    """Reload once.

    Args:
        app: The daemon.
        read: Reads settings and handlers; run on a thread, since it loads the user's code.

    Returns:
        Whether the new ones were taken.
    """
    try:
        settings, registry = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    except ConsumerError as error:
        problems = error.problems if isinstance(error, SettingsError) else [str(error)]
        return _refused(app, problems)
    except Exception as error:
        if lacks_threads(error):
            return _refused(
                app, ["no thread could be started to read them; raise the limit of threads, then try again"]
            )
        log.exception("internal fault while reloading")
        return _refused(app, [repr(error)])
    if problems := takes_restart(app.settings, settings):
        forget(registry.packages)
        return _refused(app, problems)
    changed = sorted(name for name in RELOADED if getattr(app.settings, name) != getattr(settings, name))
    app.adopt(settings, registry)
    app.metrics.reloads[ReloadResult.APPLIED].inc()
    log.info("reloaded", handlers=list(registry.handlers), changed=changed)
    return True


def takes_restart(before: Settings, after: Settings) -> Sequence[str]:
    """One line for each setting that has changed and can't be changed in a daemon that runs."""
    changed = [
        name for name in Settings.model_fields if name not in RELOADED and getattr(before, name) != getattr(after, name)
    ]
    if (before.access_key_id is None) != (after.access_key_id is None):
        changed.append("access_key_id")
    return [f"{name}: it has changed, and that takes a restart; reload again once it is as before" for name in changed]


def _refused(app: App, problems: Sequence[str]) -> bool:
    app.metrics.reloads[ReloadResult.REFUSED].inc()
    for problem in problems:
        log.error("reload refused; the old settings and handlers are kept", problem=problem)
    return False
