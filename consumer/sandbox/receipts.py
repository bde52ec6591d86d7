"""Give out receipt handles, and know which message one holds.

A handle is replaced by every receive and every ChangeMessageVisibility. The replaced one is dead, unless the
sandbox is lenient: then every handle works while its message lives.

Elsewhere: when a handle that was not replaced has run out (``queue``).
"""

import binascii
import random
import re
from typing import Final

from consumer.sandbox.message import Message
from consumer.sandbox.refusal import MnsError, message_not_exist

# 36 or 37 characters, such as 8-0zxj... (facts/mns.md#receipt-handles); the number before the hyphen is the priority's.
_HANDLE: Final = re.compile(r"[A-Za-z0-9-]{36,37}")
_TOKEN_LENGTH: Final = 34
_LETTERS_ONLY: Final = bytes.maketrans(b"+/", b"zx")
# Tokens are made so many at once: 0.2 us for each in place of 0.9. Three bytes make four letters.
_MADE_AT_ONCE: Final = 90
_BYTES_AT_ONCE: Final = _MADE_AT_ONCE * _TOKEN_LENGTH * 3 // 4


class Receipts:
    """The handles of one queue."""

    def __init__(self, chance: random.Random, *, are_lenient: bool) -> None:
        self.are_lenient = are_lenient
        self._chance = chance
        self._tokens: list[str] = []
        self._by_handle: dict[str, Message] = {}

    def find(self, handle: str) -> Message:
        """Find the message that a handle was given out for.

        Raises:
            MnsError: MessageNotExist for a dead or foreign handle, ReceiptHandleError for what has another shape.
        """
        message = self._by_handle.get(handle)
        if message is not None:
            return message
        if _HANDLE.fullmatch(handle) is None:
            raise MnsError("ReceiptHandleError", "The receipt handle you provide is not valid.")
        raise message_not_exist()

    def renew(self, message: Message) -> None:
        """Give a message a new handle in place of its old one."""
        old = message.handle
        if old is not None:
            if self.are_lenient:
                message.old_handles = [*(message.old_handles or ()), old]
            else:
                del self._by_handle[old]
        if not self._tokens:
            self._tokens = self._more_tokens()
        message.handle = handle = f"{message.priority}-{self._tokens.pop()}"
        self._by_handle[handle] = message

    def _more_tokens(self) -> list[str]:
        letters = binascii.b2a_base64(self._chance.randbytes(_BYTES_AT_ONCE), newline=False)
        text = letters.translate(_LETTERS_ONLY).decode()
        return [text[start : start + _TOKEN_LENGTH] for start in range(0, len(text), _TOKEN_LENGTH)]

    def drop(self, message: Message) -> None:
        """Kill every handle of a message."""
        if message.handle is not None:
            del self._by_handle[message.handle]
            message.handle = None
        for handle in message.old_handles or ():
            del self._by_handle[handle]
        message.old_handles = None
