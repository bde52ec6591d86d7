"""The catalogue: names are listed without importing, each module is complete, the public face exports all of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Final

import pytest
from pydantic import BaseModel

import mns_consumer.functions
from consumer.functions import catalogue
from consumer.functions.catalogue import Family, Function, documented, find, names, nearest

ROOT: Final = Path(__file__).resolve().parents[2]
FACTS: Final = (ROOT / "consumer" / "facts" / "iproduction.md").read_text(encoding="utf-8")

each_function = pytest.mark.parametrize("function", documented(), ids=lambda function: function.name)


def loaded_by(statement: str) -> set[str]:
    """The modules of the catalogue that a fresh process has imported after a statement."""
    code = f"{statement}\nimport sys\nprint(*(name for name in sys.modules if name.startswith('consumer.functions.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.removeprefix("consumer.functions.") for name in done.stdout.split()}


def test_the_names_are_those_of_the_facts() -> None:
    """The catalogue has each function that the facts describe, and no other."""
    described = FACTS.partition("\n## Functions\n")[2].partition("\n## ")[0]
    headings = [line.removeprefix("### ") for line in described.splitlines() if line.startswith("### ")]
    assert list(names()) == sorted(headings)
    assert len(headings) == 16


@each_function
def test_a_module_is_named_after_its_function(function: Function) -> None:
    """The name that is derived from the file's name is the name in the module."""
    assert find(function.name) is function
    assert function.result.__name__ == f"{function.name}Result"
    assert function.result.__module__ == f"consumer.functions.{catalogue._modules()[function.name]}"
    assert function.params.__name__ == f"{function.name}Params"
    assert function.params.function == function.name


@each_function
def test_each_field_is_described(function: Function) -> None:
    """Every field that a model names has a description, for the listing of functions and for errors."""
    assert callable(function.result.summary)  # type: ignore[attr-defined]  # of every result, see Function
    assert all(field.description for key, field in function.result.model_fields.items() if key != "root")
    assert all(field.description for field in function.params.model_fields.values())


@each_function
def test_the_sample_fits_the_model(function: Function) -> None:
    """The data of each sample is a valid result, with as many files as the sample says."""
    keys = [f"oss://b/{number}" for number in range(function.sample.files)]
    if function.family is Family.DETAILS:
        assert not keys
        return
    data = function.sample.data(keys, Random(1))  # noqa: S311 - the figures of a sample
    found = function.result.model_validate(data)
    assert all(key in found.model_dump_json() for key in keys)


def test_the_sister_service_has_13_of_them() -> None:
    """All but three are in IMS as well, and each of these has a bare result of it, without Code and Data."""
    shared = [function for function in documented() if function.is_in_ims]
    assert len(shared) == 13
    for function in shared:
        result = function.sample.ims(["oss://b/1"], Random(1))  # noqa: S311 - the figures of a sample
        assert isinstance(result, list) or {"Code", "Data"}.isdisjoint(result)  # type: ignore[arg-type]


def test_a_name_that_is_not_documented_is_not_found() -> None:
    """Another name, a module without a function, and a name in another case are no functions."""
    assert [find(name) for name in ("MusicDemix", "Catalogue", "cover", "", "*")] == [None] * 5


@pytest.mark.parametrize(
    ("name", "near"), [("cover", "Cover"), ("VideoH2v", "VideoH2V"), ("SpeechDenoize", "SpeechDenoise"), ("xyz", None)]
)
def test_nearest(name: str, near: str | None) -> None:
    """A misspelt name has a nearest one, a quite different one has none."""
    assert nearest(name) == near


def test_the_names_stand_nowhere_else() -> None:
    """No module of the daemon, the sandbox or the command line lists FunctionNames of its own."""
    functions = frozenset(names())
    found = {
        str(path.relative_to(ROOT)): named
        for path in (ROOT / "consumer").rglob("*.py")
        if not {"functions", "public"} & set(path.relative_to(ROOT).parts)
        and len(named := functions.intersection(_texts(path))) > 1
    }
    assert found == {}


def _texts(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_names_are_listed_without_the_modules() -> None:
    """Listing the names imports no function's module; finding one imports its own alone."""
    assert loaded_by("from consumer.functions.catalogue import names; names()") == {"catalogue", "parameters"}
    of_cover = {"catalogue", "parameters", "cover"}
    assert loaded_by("from consumer.functions.catalogue import find; find('Cover')") == of_cover


def test_a_model_is_imported_alone() -> None:
    """The public face imports only the module of the model that is asked for."""
    needed = {"catalogue", "parameters", "cover"}
    assert loaded_by("from mns_consumer.functions import CoverParams, CoverResult, CoverStill") == needed
    assert loaded_by("from mns_consumer.functions import ResultModel, FunctionParams") == {"catalogue", "parameters"}


def test_the_face_exports_every_model() -> None:
    """Each model of the catalogue is in ``mns_consumer.functions``, for type checkers and at run time."""
    models = {
        (f"consumer.functions.{path.stem}", node.name)
        for path in (ROOT / "consumer" / "functions").glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and issubclass(getattr(import_module(f"consumer.functions.{path.stem}"), node.name), (BaseModel, tuple))
    }
    face = ast.parse(Path(str(mns_consumer.functions.__file__)).read_text(encoding="utf-8"))
    declared = {
        (node.module, alias.asname)
        for node in ast.walk(face)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert declared == models
    for module, name in models:
        found = getattr(mns_consumer.functions, name)
        assert found.__module__ == module
        assert issubclass(found, (BaseModel, tuple))


@pytest.mark.parametrize("name", ["CoverResults", "Job", "find", "__path__", "BaseModel", "FUNCTION", "Sample"])
def test_the_face_exports_nothing_else(name: str) -> None:
    """A name that is no model raises AttributeError."""
    with pytest.raises(AttributeError, match=f"no model of results or parameters is named '{name}'"):
        getattr(mns_consumer.functions, name)
