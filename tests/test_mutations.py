"""The mutations that show that each guarantee has its test still fit the code."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_has_its_place(mutation: Mutation) -> None:
    """The text that gives a guarantee stands once in its file, and the tests named beside it exist."""
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new
    assert all((ROOT / test).exists() for test in mutation.tests)
