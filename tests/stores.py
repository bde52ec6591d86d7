"""A store's ledger and operators, from the text of its address."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from consumer.store.ledger import Ledger
from consumer.store.open import make_ledger, make_operators
from consumer.store.queries import Operators
from consumer.store.sqlite.database import connect
from consumer.store.sqlite.files import make_folder, open_file
from consumer.store.sqlite.schema import prepare
from consumer.store_address import parse_store_address


def ledger_at(text: str) -> Ledger:
    """The ledger of an address; ``open`` it next."""
    return make_ledger(parse_store_address(text))


def new_file(path: Path) -> sqlite3.Connection:
    """A new SQLite store."""
    make_folder(path.parent)
    os.close(open_file(path))
    prepare(path, make=True)
    return connect(path)


def operators_at(text: str) -> Operators:
    """The operators' access to an address."""
    return make_operators(parse_store_address(text))
