"""Write MPS's answers: JSON, or XML for who asks with ``Format=XML``.

Elsewhere: what an answer says (``mps_api``).
"""

import json
from collections.abc import Mapping
from typing import Any

from consumer.sandbox.answer import JSON, XML, Answer
from consumer.sandbox.wire import escaped


def written(body: Mapping[str, Any], status: int, *, root: str, parameters: Mapping[str, str]) -> Answer:
    """Write an answer in the format that a request asked for.

    Args:
        body: Names and texts, or one level deeper again names and texts.
        status: HTTP status.
        root: Root element of XML; JSON has none.
        parameters: Of the request.
    """
    if parameters.get("Format", "").upper() == "XML":
        text = f"<?xml version='1.0' encoding='UTF-8'?><{root}>{_elements(body)}</{root}>"
        return Answer(status, text.encode(), XML)
    return Answer(status, json.dumps(body, ensure_ascii=False).encode(), JSON)


def _elements(body: Mapping[str, Any]) -> str:
    return "".join(
        f"<{name}>{_elements(value) if isinstance(value, Mapping) else escaped(str(value))}</{name}>"
        for name, value in body.items()
    )
