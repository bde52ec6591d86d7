"""Read a job's Result: JSON in a string in JSON, five families, any of it possibly broken.

One rule gives ``data``, against which a handler's model is validated:

* a ``Data`` with a value: its content, decoded when it is JSON in a string (families a, b, d);
* no such ``Data``, but a ``Code`` or ``Details``: the document without ``Code``, ``Message`` and ``Data``,
  such as ``{"Details": []}`` (family c);
* none of them: the document itself (family e, and a ``Data`` that came alone in a message);
* a text that is no JSON object or array, at either layer: that text, with the reason in ``problem``;
* a file whose URL is not ``oss://``: the text as it came likewise, so that no handler fetches a stranger's URL.

In ``data``, files are object keys without the bucket; each is completed from the job's ``Output``. Numbers that came as
strings stay strings: only a model knows which are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue

from consumer.message.strict_json import Undecodable, parse, parse_container, shown, storable, text_or_json

# Bounded as buckets and regions are: the match is put before every file's key.
_OUTPUT = re.compile(r"oss://[^/\s]{1,63}\.oss-[a-z0-9-]{1,40}\.aliyuncs\.com(?=/|$)")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_KEYS = frozenset({"file", "url"})
_OSS = "oss://"
NOT_SAVED: Final = "oss fail to save the image in the given bucket"
"""The text in place of a file that was not written, State Success or not.

Source: facts/iproduction.md#output-not-written.
"""
_HEAD_KEYS = frozenset({"code", "message", "data"})


@dataclass(frozen=True, slots=True)
class JobResult:
    """QueryIProductionJob's ``Result``, decoded as far as it is JSON.

    Args:
        data: Input of a handler's model (see the module); ``None`` where nothing came.
        text: The text as it came, always kept (characters that no store keeps are spelt as escapes).
        problem: Why some layer did not parse, with layer and position; ``None`` when all did.
        is_saved: ``False`` where some file was not written (``NOT_SAVED``): the job failed, whatever its State.
    """

    code: str | None
    message: str | None
    data: JsonValue
    text: str
    problem: str | None
    is_saved: bool = True


def read_result(raw: JsonValue, output: str | None) -> JobResult:
    """Read one Result, JSON in a string or the object itself. Total: any value gives a ``JobResult``.

    ``output`` is the job's, such as ``oss://BUCKET.oss-REGION.aliyuncs.com/x/{source}``; where it has another form,
    files keep their bare keys. Source: facts/iproduction.md#result-families, facts/iproduction.md#submit-a-job.
    """
    try:
        text = storable(text_or_json(raw) or "")
    except Undecodable as fault:
        return JobResult(None, None, None, "", f"Result: {fault.reason}")
    if not text.strip():
        return JobResult(None, None, None, text, "Result: expected a JSON object, came nothing")
    try:
        document = parse_container(text)
    except Undecodable as fault:
        return JobResult(None, None, text, text, _problem("Result", fault))
    read = JobResult(None, None, document, text, None) if isinstance(document, list) else _read_document(document, text)
    for file in _files(read.data):
        if file.lower().startswith(NOT_SAVED):
            return replace(read, is_saved=False)
        if _HAS_SCHEME.match(file) and not file.startswith(_OSS):
            problem = f"Result: expected a file as an object's key or an oss:// URL, came {shown(file)}"
            return replace(read, data=read.text, problem=problem)
    base = _OUTPUT.match(output or "")
    return read if base is None else replace(read, data=_complete(read.data, base.group()))


def _read_document(document: dict[str, JsonValue], text: str) -> JobResult:
    # Of two spellings of one key the first counts: a result decides nothing, it is kept and shown.
    by_name: dict[str, JsonValue] = {}
    for key, value in document.items():
        by_name.setdefault(key.lower(), value)
    data, problem = by_name.get("data"), None
    if isinstance(data, str) and data:
        data, problem = _decode_data(data)
    elif data is None or data == "":
        has_head = "code" in by_name or "details" in by_name
        data = {key: value for key, value in document.items() if not (has_head and key.lower() in _HEAD_KEYS)}
    code, message = text_or_json(by_name.get("code")), text_or_json(by_name.get("message"))
    return JobResult(code, message, data, text, problem)


def _decode_data(data: str) -> tuple[JsonValue, str | None]:
    """Data's object or array; a JSON scalar stays the text; any other text too, with its reason."""
    try:
        return parse_container(data), None
    except Undecodable as fault:
        try:
            parse(data)
        except Undecodable:
            return data, _problem("Data", fault)
        return data, None


def _problem(layer: str, fault: Undecodable) -> str:
    return str(Undecodable(layer, fault.reason, fault.position))


def _files(value: JsonValue) -> Iterator[str]:
    """Every file in a result, by key or URL."""
    if isinstance(value, list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                yield from _files(item)
            elif key.lower() in _FILE_KEYS:
                yield item


def _complete(value: JsonValue, base: str) -> JsonValue:
    """Put bucket and endpoint before each file's key; a URL stays."""
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
