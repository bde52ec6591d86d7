"""Check what a queue may be set to, and what it may be called.

Elsewhere: what the settings do to messages (``queue``), the operations that carry them (``queue_api``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from consumer.sandbox.refusal import MnsError

# Older pages say 256, newer ones 120 (facts/mns.md#queue-names). So a queue may have a longer name than a new one.
_LONGEST_NAME = 256
LONGEST_NEW_NAME = 120
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

# Element name -> (field, lowest, highest, unit). Source: facts/mns.md#create-queue.
_RANGES = {
    "DelaySeconds": ("delay_s", 0, 604_800, "seconds"),
    "MaximumMessageSize": ("maximum_message_bytes", 1024, 65_536, "bytes"),
    "MessageRetentionPeriod": ("retention_s", 60, 604_800, "seconds"),
    "VisibilityTimeout": ("visibility_timeout_s", 1, 43_200, "seconds"),
    "PollingWaitSeconds": ("polling_wait_s", 0, 30, "seconds"),
}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class QueueAttributes:
    """The six settings of a queue, with the service's defaults."""

    delay_s: int = 0
    maximum_message_bytes: int = 65_536
    retention_s: int = 345_600
    visibility_timeout_s: int = 30
    polling_wait_s: int = 0
    logging_enabled: bool = False

    def changed(self, given: Mapping[str, str]) -> "QueueAttributes":
        """Give these attributes with some replaced.

        Args:
            given: Element name to text, as the request's ``<Queue>`` had them; unknown names are ignored,
                as the service does.

        Raises:
            MnsError: InvalidArgument for a text that is no number, or is out of its range.
        """
        values: dict[str, int | bool] = {}
        for element, (field, lowest, highest, unit) in _RANGES.items():
            if element in given:
                values[field] = whole_number(element, given[element], lowest, highest, unit)
        if "LoggingEnabled" in given:
            text = given["LoggingEnabled"].strip().lower()
            if text not in _BOOLEANS:
                raise MnsError("InvalidArgument", f"LoggingEnabled must be True or False, not '{text}'.")
            values["logging_enabled"] = _BOOLEANS[text]
        # mypy can't match a dict of values with the fields' types; the table above does.
        return replace(self, **values)  # type: ignore[arg-type]

    def by_element(self) -> dict[str, str]:
        """Give element name to text, as GetQueueAttributes shows them."""
        shown = {element: str(getattr(self, field)) for element, (field, *_) in _RANGES.items()}
        shown["LoggingEnabled"] = str(self.logging_enabled)
        return shown


def whole_number(name: str, text: str, lowest: int, highest: int, unit: str = "") -> int:
    """Read a whole number of a request.

    Raises:
        MnsError: InvalidArgument, naming the range.

    Source: facts/mns.md#error-texts.
    """
    text = text.strip()
    # isdecimal alone would let in other scripts' digits, and int() signs and underscores.
    if text.isascii() and text.isdecimal() and len(text) < len("1000000000"):
        number = int(text)
        if lowest <= number <= highest:
            return number
    raise MnsError("InvalidArgument", f"The value of {name} should between {lowest} and {highest} {unit}".rstrip())


def check_queue_name(name: str, longest: int = _LONGEST_NAME) -> None:
    """Refuse what is no queue name.

    Raises:
        MnsError: QueueNameLengthError or InvalidQueueName.
    """
    if not 1 <= len(name) <= longest:
        raise MnsError("QueueNameLengthError", f"Queue name length should between 1 and {longest}.")
    if not _NAME.fullmatch(name):
        raise MnsError(
            "InvalidQueueName",
            "A queue name starts with a letter or digit and holds letters, digits and hyphens only.",
        )
