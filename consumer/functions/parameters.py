"""What the parameters of all functions share: the model that writes JobParams, and boxes in a picture.

A function's own parameters are in its module, as ``CoverParams`` in ``cover.py``. MPS takes JobParams as JSON text, and
some of its values as JSON text within that text; the models write each value as it is documented.

Source: facts/iproduction.md#job-parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

_ROUNDING: Final = 1e-9
INFERRED_RULE: Final = "inferred"
"""The type of a validation error that can be forced: the rule is inferred, MPS may think otherwise."""


class Inferred:
    """Marks a field whose rule is inferred for MPS, mostly from its sister service; what breaks it can be forced."""


INFERRED: Final = Inferred()


class FunctionParams(BaseModel):
    """JobParams of one function.

    A field takes its own name and MPS's: ``Field(validation_alias="Model", serialization_alias="Model")``. A plain
    ``alias`` would hide its own name from type checkers. Parameters that are not given are not written, so that MPS's
    defaults apply. A function that is not documented has parameters too:

        class MusicDemixParams(FunctionParams):
            '''JobParams of a MusicDemix job.'''
            model_config = ConfigDict(extra="allow")
            function = "MusicDemix"
    """

    # Built at their first use: a daemon that submits nothing needs none of them.
    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, defer_build=True)

    function: ClassVar[str]
    """The FunctionName."""
    ims_names: ClassVar[Mapping[str, str]] = {}
    """The sister service's names, each with MPS's name for the same (facts/iproduction.md#sister-service-ims)."""

    @classmethod
    def wire_names(cls) -> dict[str, str]:
        """Each field's name with MPS's spelling."""
        return {name: field.serialization_alias or name for name, field in cls.model_fields.items()}

    def job_params(self) -> str:
        """JobParams as MPS takes it: a JSON object as text."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        return compact_json(given)

    @property
    def needs_result_type(self) -> bool:
        """Whether Output must hold ``{resultType}``, because several kinds of files come out."""
        return False

    @property
    def output_ending(self) -> str | None:
        """The ending of the file that comes out, where these parameters decide it."""
        return None

    def warnings(self) -> Iterator[tuple[str, str]]:
        """What is allowed and probably not meant, by parameter."""
        yield from ()


def compact_json(value: object) -> str:
    """JSON without spaces, Chinese unchanged."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def decoded(value: object) -> object:
    """The content of JSON text; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


_Share = Annotated[float, Field(ge=0, le=1)]


class Box(NamedTuple):
    """A rectangle in a picture, each number a share of its width or height, 0 to 1, from the upper left corner."""

    xmin: _Share
    ymin: _Share
    width: _Share
    height: _Share


def _within_picture(box: Box) -> Box:
    for name, end in (("xmin + width", box.xmin + box.width), ("ymin + height", box.ymin + box.height)):
        if end > 1 + _ROUNDING:
            raise ValueError(f"{name} is {end:g}, more than 1")
    return box


def _boxes_text(boxes: Sequence[Box]) -> str:
    return compact_json([list(box) for box in boxes])


Boxes = Annotated[
    list[Annotated[Box, AfterValidator(_within_picture)]],
    Field(max_length=2),
    BeforeValidator(decoded),
    PlainSerializer(_boxes_text, return_type=str),
]
"""At most two boxes. MPS takes them as JSON text within JobParams (facts/iproduction.md#videodelogo)."""


def inferred_error(text: str) -> PydanticCustomError:
    """The error of a rule that is inferred."""
    return PydanticCustomError(INFERRED_RULE, "{text}", {"text": text})
