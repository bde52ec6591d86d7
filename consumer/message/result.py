"""Read a job's Result: JSON in a string in JSON, five families, any of it possibly broken.

One rule gives ``data``, what a handler's model is validated against:

* a ``Data`` that says something: its content, unfolded when it is JSON in a string (families a, b, d);
* no such ``Data``, but a ``Code`` or ``Details``: the document without ``Code``, ``Message`` and ``Data``,
  such as ``{"Details": []}`` (family c);
* none of them: the document itself (family e, and a ``Data`` that came alone in a message);
* a text that is no JSON object or array, at either layer: that text, with the reason in ``problem``;
* a file whose URL is not ``oss://``: the text as it came likewise, so that nobody fetches from a stranger's address.

In ``data``, files are named by their object key without the bucket; each is completed from the job's
``Output``. Numbers that came as strings stay strings: a model knows which are numbers, this does not.

Elsewhere: asking for the result (``cloud.mps``), its model for each function (``handlers``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue

from consumer.message.strict_json import dump, parse, parse_container, storable
from consumer.message.unreadable import Unreadable, shown

# Bounded as buckets and regions are: the match is put before every file's key.
_OUTPUT = re.compile(r"oss://[^/\s]{1,63}\.oss-[a-z0-9-]{1,40}\.aliyuncs\.com(?=/|$)")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_KEYS = frozenset({"file", "url"})
_OSS = "oss://"
NOT_SAVED: Final = "oss fail to save the image in the given bucket"
"""The text in place of a file that a job with State Success has not written (facts/iproduction.md#output-not-saved)."""
_HEAD_KEYS = frozenset({"code", "message", "data"})


@dataclass(frozen=True, slots=True)
class JobResult:
    """What QueryIProductionJob's ``Result`` holds, unfolded as far as it goes.

    Args:
        code: ``Code``; ``None`` where absent.
        message: ``Message``; ``None`` where absent.
        data: What a handler's model is validated against (see the module): ``Data`` decoded, or the document
            without its head; the text as it came where it does not parse; ``None`` where nothing came.
        text: The text as it came, always kept (characters that no store keeps are spelt as escapes).
        problem: Why some layer did not parse, naming layer and position; ``None`` when all did.
        is_saved: ``False`` where some file was not written (``NOT_SAVED``): then the job failed, whatever its State.
    """

    code: str | None
    message: str | None
    data: JsonValue
    text: str
    problem: str | None
    is_saved: bool = True


def read_result(raw: JsonValue, output: str | None) -> JobResult:
    """Read one Result. Total: any text and any JSON value give a ``JobResult``.

    Args:
        raw: The Result: JSON in a string, or the object itself (both are documented).
        output: The job's ``Output``, a template such as ``oss://BUCKET.oss-REGION.aliyuncs.com/x/{source}``;
            where it has another form, files keep their bare keys.

    Returns:
        What it holds, and what could not be read of it.

    Source: facts/iproduction.md#result-families, facts/iproduction.md#submit-a-job.
    """
    try:
        text = storable(raw if isinstance(raw, str) else "" if raw is None else dump(raw))
    except Unreadable as fault:
        return JobResult(None, None, None, "", f"Result: {fault.reason}")
    if not text.strip():
        return JobResult(None, None, None, text, "Result: expected a JSON object, came nothing")
    try:
        document = parse_container(text)
    except Unreadable as fault:
        return JobResult(None, None, text, text, _problem("Result", fault))
    if isinstance(document, list):
        return _checked(JobResult(None, None, document, text, None), output)
    return _checked(_read_document(document, text), output)


def _checked(read: JobResult, output: str | None) -> JobResult:
    """Look at the files that a result names, and complete each from the job's Output."""
    for file in _files(read.data):
        if file.lower().startswith(NOT_SAVED):
            return replace(read, is_saved=False)
        if _HAS_SCHEME.match(file) and not file.startswith(_OSS):
            problem = f"Result: expected a file as an object's key or an oss:// URL, came {shown(file)}"
            return replace(read, data=read.text, problem=problem)
    base = _base_of(output)
    return read if base is None else replace(read, data=_complete(read.data, base))


def _files(value: JsonValue) -> Iterator[str]:
    """Every file that a result names, by key or URL."""
    if isinstance(value, list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                yield from _files(item)
            elif key.lower() in _FILE_KEYS:
                yield item


def _read_document(document: dict[str, JsonValue], text: str) -> JobResult:
    # Of two spellings of one key the first counts: a result is kept and shown, not decided by.
    by_name: dict[str, JsonValue] = {}
    for key, value in document.items():
        by_name.setdefault(key.lower(), value)
    data, problem = by_name.get("data"), None
    if isinstance(data, str) and data:
        data, problem = _unfold(data)
    elif data is None or data == "":
        has_head = "code" in by_name or "details" in by_name
        data = {key: value for key, value in document.items() if not (has_head and key.lower() in _HEAD_KEYS)}
    return JobResult(
        code=_wording(by_name.get("code")),
        message=_wording(by_name.get("message")),
        data=data,
        text=text,
        problem=problem,
    )


def _unfold(data: str) -> tuple[JsonValue, str | None]:
    """Decode Data's text: an object or array; a JSON scalar stays the text; anything else too, with its reason."""
    try:
        return parse_container(data), None
    except Unreadable as fault:
        try:
            parse(data)
        except Unreadable:
            return data, _problem("Data", fault)
        return data, None


def _problem(layer: str, fault: Unreadable) -> str:
    at = "" if fault.position is None else f" at {fault.position}"
    return f"{layer}{at}: {fault.reason}"


def _wording(value: JsonValue) -> str | None:
    return value if value is None or isinstance(value, str) else dump(value)


def _base_of(output: str | None) -> str | None:
    match = _OUTPUT.match(output) if output else None
    return match.group() if match else None


def _complete(value: JsonValue, base: str) -> JsonValue:
    """Put bucket and endpoint before each file's key; what is a URL already stays."""
    if isinstance(value, list):
        return [_complete(item, base) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _url(item, base) if isinstance(item, str) and key.lower() in _FILE_KEYS else _complete(item, base)
        for key, item in value.items()
    }


def _url(key: str, base: str) -> str:
    return key if not key or key.startswith(_OSS) else f"{base}/{key.removeprefix('/')}"
