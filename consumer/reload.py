"""Reload: read settings and handlers again and apply all of them, or none if one is wrong.

Messages in flight keep the settings and handlers that they started with. A reload is refused, with one log line for
each problem and a count in the metrics, if a setting is wrong or if one has changed that takes a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio.to_thread
import structlog

from consumer.app import App
from consumer.config import Settings, info_of
from consumer.errors import ConsumerError, SettingsError, lacks_threads
from consumer.ops.metrics import ReloadResult
from consumer.plugin.registry import Registry, forget

log = structlog.stdlib.get_logger(__name__)

Read: TypeAlias = Callable[[], tuple[Settings, Registry]]
"""Reads settings and handlers; raises ``ConsumerError`` if one of them is wrong."""


async def reload(app: App, read: Read) -> bool:
    """Reload once. ``read`` runs on a thread, because it imports the user's code.

    Returns:
        Whether the new settings and handlers apply.
    """
    try:
        settings, registry = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    except ConsumerError as error:
        problems = error.problems if isinstance(error, SettingsError) else [str(error)]
        return _refuse(app, problems)
    except Exception as error:
        if lacks_threads(error):
            return _refuse(app, ["no thread could be started to read them; raise the limit of threads, then try again"])
        log.exception("internal error while reloading")
        return _refuse(app, [repr(error)])
    if problems := takes_restart(app.settings, settings):
        forget(registry.packages)
        return _refuse(app, problems)
    changed = _changed(app.settings, settings)
    app.adopt(settings, registry)
    app.metrics.reloads[ReloadResult.APPLIED].inc()
    log.info("reloaded", handlers=list(registry.handlers), changed=changed)
    return True


def takes_restart(before: Settings, after: Settings) -> Sequence[str]:
    """One line for each changed setting that takes a restart."""
    changed = [name for name in _changed(before, after) if not info_of(Settings.model_fields[name]).reloadable]
    if (before.access_key_id is None) != (after.access_key_id is None):
        # Keys can be replaced by others, not by the default chain.
        changed.append("access_key_id")
    return [f"{name}: it has changed, and that takes a restart; reload again once it is as before" for name in changed]


def _changed(before: Settings, after: Settings) -> list[str]:
    return sorted(name for name in Settings.model_fields if getattr(before, name) != getattr(after, name))


def _refuse(app: App, problems: Sequence[str]) -> bool:
    app.metrics.reloads[ReloadResult.REFUSED].inc()
    for problem in problems:
        log.error("reload refused; the old settings and handlers are kept", problem=problem)
    return False
