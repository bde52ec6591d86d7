"""``mns-consumer status`` and ``reload``: ask the daemon that runs on this machine, over its control socket.

Neither loads the settings: a daemon must be found also while they are wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consumer.cli.output import JsonFlag, age_text, one_line, print_json, print_list, print_places, value_text
from consumer.errors import SettingsError
from consumer.instance import find_socket, names
from consumer.ops.control import ask
from consumer.ops.sanitize import printable, printable_block


def complete_instance(begun: str) -> list[str]:
    """The names of the daemons that are set up here, for a shell."""
    return [name for name in names() if name.startswith(begun)]


_RELOAD_S: Final = 120.0
"""A reload imports the handlers' files."""

InstanceFlag = Annotated[
    str | None,
    typer.Option(
        "--instance",
        metavar="NAME",
        help="The installed daemon of this name; needed if several are.",
        autocompletion=complete_instance,
    ),
]
SocketFlag = Annotated[
    Path | None, typer.Option("--socket", metavar="PATH", help="Its control socket, in place of the usual one.")
]


def status(
    *,
    instance: InstanceFlag = None,
    socket: SocketFlag = None,
    all_settings: Annotated[
        bool, typer.Option("--settings", help="All settings in force, also those that are the defaults.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what the running daemon does: jobs in flight, outages, settings."""
    found = ask(socket or find_socket(instance), {"command": "status"})
    if as_json:
        print_json(found)
    else:
        _print_status(found, all_settings=all_settings)


def reload(*, instance: InstanceFlag = None, socket: SocketFlag = None, as_json: JsonFlag = False) -> None:
    """Let the running daemon reload; exits with 78 if it refuses.

    It reads its settings and handlers again. If anything is wrong, it keeps the old ones and says each reason.
    """
    answer = ask(socket or find_socket(instance), {"command": "reload"}, timeout_s=_RELOAD_S)
    if as_json:
        print_json(answer)
    if answer["problems"]:
        raise SettingsError(*answer["problems"])
    if not as_json:
        print(printable(f"reloaded; handlers: {', '.join(answer['handlers']) or 'none'}"))


def _print_status(found: Mapping[str, Any], *, all_settings: bool) -> None:
    print(
        printable(f"mns-consumer {found['version']}, pid {found['pid']}, {found['state']}, up {_ago(found['since'])}")
    )
    last = found["last_reload"]
    if last is not None:
        print(printable(f"last reload {last['outcome']} {_ago(last['at'])} ago"))
    for problem in last["problems"] if last else ():
        print(printable_block(problem))
    for queue in found["queues"]:
        _print_queue(queue)
    for outage in found["breakers"]:
        began = f" for {_ago(outage['since'])}" if outage["since"] else ""
        print(f"\noutage{began}, {one_line(outage['queue'] or 'store', 200)}: {one_line(outage['event'], 200)}")
        print(f"  {one_line(outage['error'] or 'no fault known yet', 500)}")
    print("\nhandlers")
    print_places([(each["function"], each["origin"]) for each in found["handlers"]])
    if found["letter_hook"] is not None:
        print("\nfunction for dead letters")
        print(f"{printable(found['letter_hook']['origin'])}")
    print("\nsettings" if all_settings else "\nsettings that are not the defaults")
    settings = [(name, value_text(each["value"]), each["from"]) for name, each in found["settings"].items()]
    print_places([row for row in settings if all_settings or row[2] != "default"])


def _print_queue(queue: Mapping[str, Any]) -> None:
    deliveries = queue["in_flight"]
    print("\n" + printable(f"{queue['queue']}: {len(deliveries)} in flight, {queue['slots']} slots"))
    if not deliveries:
        return
    counts = Counter(str(one["function"] or "-") for one in deliveries)
    print_list(("function", "in flight"), sorted(counts.items()), wide=True)
    print()
    print_list(
        ("function", "attempt", "state", "for", "job_id"),
        [
            (one["function"] or "-", one["attempt"], one["state"], _ago(one["since"]), one["job_id"] or "-")
            for one in sorted(deliveries, key=lambda one: str(one["function"]))
        ],
        wide=True,
    )


def _ago(time: str) -> str:
    return age_text(datetime.fromisoformat(time).timestamp())
