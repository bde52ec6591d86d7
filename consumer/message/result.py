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
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue

from consumer.job_state import NOT_WRITTEN_CODE
from consumer.message.strict_json import Undecodable, parse, parse_container, shown, storable, text_or_json

# Bounded as buckets and regions are: the match is put before every file's key. The second form is IMS's.
_OUTPUT = re.compile(r"oss://[^/\s]{1,63}\.oss-[a-z0-9-]{1,40}\.aliyuncs\.com(?=/|$)|oss://[^/\s.]{1,63}(?=/)")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_KEYS = frozenset({"file", "url"})
_WRITTEN_KEYS = _FILE_KEYS | {"output"}
"""Where a text can stand in place of a file; ``Output`` is in a detail of family (c)."""
_OSS = "oss://"
NOT_WRITTEN: Final = "oss fail to save the image in the given bucket"
"""The text in place of a file that was not written, State Success or not.

Source: facts/iproduction.md#output-not-written.
"""
_NOT_WRITTEN_MESSAGE: Final = f"{NOT_WRITTEN}: is the output bucket in the region of MPS?"
_HEAD_KEYS = frozenset({"code", "message", "data"})


@dataclass(frozen=True, slots=True)
class JobResult:
    """QueryIProductionJob's ``Result``, decoded as far as it is JSON.

    Args:
        data: Input of a handler's model (see the module); ``None`` where nothing came.
        text: The text as it came, always kept (characters that no store keeps are spelt as escapes).
        problem: Why some layer did not parse, with layer and position; ``None`` when all did.
        is_written: ``False`` where some file was not written: the job failed, whatever its State, and ``code`` and
            ``message`` are ours. No key is completed to a URL then.
    """

    code: str | None
    message: str | None
    data: JsonValue
    text: str
    problem: str | None
    is_written: bool = True


def read_result(raw: JsonValue, output: str | None) -> JobResult:
    """Read one Result, JSON in a string or the object itself. Total: any value gives a ``JobResult``.

    ``output`` is the job's, such as ``oss://BUCKET.oss-REGION.aliyuncs.com/x/{source}`` or ``oss://BUCKET/x``; where it
    has another form, files keep their bare keys.

    Source: facts/iproduction.md#result-families, facts/iproduction.md#result-files,
    facts/iproduction.md#sister-service-ims.
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
    if any(entry.strip().lower().startswith(NOT_WRITTEN) for entry in _strings(read.data, _WRITTEN_KEYS)):
        return replace(read, is_written=False, code=NOT_WRITTEN_CODE, message=_NOT_WRITTEN_MESSAGE)
    for file in _strings(read.data, _FILE_KEYS):
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


def _strings(value: JsonValue, keys: Collection[str]) -> Iterator[str]:
    """Every text that a result has under one of these keys."""
    if isinstance(value, list):
        for item in value:
            yield from _strings(item, keys)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                yield from _strings(item, keys)
            elif key.lower() in keys:
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
