"""``mns-consumer functions``: the handler of each FunctionName, and the fields of its result."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

from pydantic import BaseModel, RootModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.cli.options import OF_HANDLERS, SettingsFlags, find_handlers, takes_settings
from consumer.cli.output import JsonFlag, print_json, print_list, value_text
from consumer.functions.catalogue import find, names
from consumer.ops.sanitize import printable
from consumer.plugin.handler import Handler, Strength
from consumer.plugin.letter_hook import LetterHook
from consumer.plugin.registry import Registry

_COLUMNS: Final = ("function", "handler", "found_in", "origin", "result_type", "result_fields")
_FOUND_IN: Final = {
    Strength.DIRECTORY: "drop-in folder",
    Strength.IMPORT_PATH: "import path",
    Strength.ENTRY_POINT: "entry point",
    Strength.SHIPPED: "shipped",
}


@takes_settings(*OF_HANDLERS)
def functions(flags: SettingsFlags, *, as_json: JsonFlag = False) -> None:
    """List each FunctionName with its handler and its result's fields.

    Needs no queue: `mns-consumer functions --shipped` shows what is shipped.
    """
    registry = find_handlers(flags.load())
    # The documented names, then every other name that has a handler.
    rows = [_row(name, registry) for name in [*names(), *sorted(registry.handlers.keys() - set(names()))]]
    if registry.letter_hook is not None:
        rows.append(_hook_row(registry.letter_hook))
    if as_json:
        for row in rows:
            print_json(row)
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        names_of = [{**row, "result_fields": [field["name"] for field in row["result_fields"]]} for row in rows]
        print_list(_COLUMNS, ([value_text(row[name] or "-") for name in _COLUMNS] for row in names_of), wide=True)


def _row(name: str, registry: Registry) -> dict[str, Any]:
    handler, function = registry.find(name), find(name)
    row = {
        "function": name,
        "title": function and function.title,
        "input": function and function.input,
        "output": function and function.output,
    }
    if handler is None:
        return row | {"handler": None, "found_in": None, "origin": None, "result_type": None, "result_fields": []}
    return row | {
        "handler": getattr(handler.function, "__qualname__", repr(handler.function)),
        "found_in": _FOUND_IN[handler.strength],
        "origin": handler.origin,
        "result_type": None if handler.result is None else _type_name(handler.result.annotation),
        "result_fields": fields_of(handler),
    }


def _hook_row(hook: LetterHook) -> dict[str, Any]:
    return {
        "function": "@on_dead_letter",
        "title": "called for each dead letter",
        "input": None,
        "output": None,
        "handler": getattr(hook.function, "__qualname__", repr(hook.function)),
        "found_in": _FOUND_IN[hook.strength],
        "origin": hook.origin,
        "result_type": None,
        "result_fields": [],
    }


def fields_of(handler: Handler) -> list[dict[str, str]]:
    """Name, type and description of each field of the result model that a handler asks for.

    A field of a list's items is named ``stills[].url``. A result that is no model, or of any shape, has no fields.
    """
    return [] if handler.result is None else _fields(handler.result.annotation, "", ())


def _fields(annotation: Any, prefix: str, above: tuple[Any, ...]) -> list[dict[str, str]]:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if not is_model or issubclass(annotation, RootModel) or annotation in above:
        return []
    found: list[dict[str, str]] = []
    for name, field in annotation.model_fields.items():
        path = f"{prefix}{name}"
        found.append({"name": path, "type": _type_name(field.annotation), "description": field.description or ""})
        inner = getattr(field.annotation, "__args__", ())
        is_list = getattr(field.annotation, "__origin__", None) is list
        for part in inner if is_list else (field.annotation,):
            found.extend(_fields(part, f"{path}[]." if is_list else f"{path}.", (*above, annotation)))
    return found


def _type_name(annotation: Any) -> str:
    """A type without the names of modules."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return annotation.__name__
    return re.sub(r"[A-Za-z_][\w.<>]*\.(?=[A-Za-z_])", "", str(annotation))


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(show_lines=True)
    for title in ("FunctionName", "Handler", "Result's fields"):
        table.add_column(title, overflow="fold")
    for row in rows:
        if row["handler"] is None:
            where, result = "none: its messages are set aside as unrouted", ""
        else:
            where = f"{printable(row['handler'])}\n{row['found_in']}: {printable(row['origin'])}"
            result = printable(row["result_type"] or "asks for no result")
            fields = [printable(f"{field['name']}: {field['type']}") for field in row["result_fields"]]
            result = "\n".join([f"{result}:" if fields else result, *(f"  {line}" for line in fields)])
        # As plain text: a name, a path or a type with brackets is no markup.
        table.add_row(Text(f"{printable(row['function'])}\n{row['title'] or ''}"), Text(where), Text(result))
    Console(highlight=False).print(table)
