"""Read the body of an MNS message: bytes to one ``Notification``, or to one reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue


class Kind(StrEnum):
    """Which of the services' messages it is (facts: iproduction, 3)."""

    IPRODUCTION = "IProduction"
    TRANSCODE = "Transcode"
    SNAPSHOT = "Snapshot"
    ANALYSIS = "Analysis"
    MEDIA_INFO = "MediaInfo"
    SMART_TAG = "smarttag"
    MEDIA_WORKFLOW = "MediaWorkflow"
    TEXT_TO_SPEECH = "TextToSpeech"
    IMS_EVENT = "ImsEvent"
    VOD_EVENT = "VodEvent"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """What a state means for the daemon."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERMEDIATE = "intermediate"
    """A known state that is no end: logged, counted, deleted; no handler runs."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why a body could not be read.

    Args:
        layer: Where it stopped: ``body``, ``envelope``, ``json``, ``keys``, ``state`` ...
        reason: One sentence: what was expected and what came.
        position: Character (or byte) offset within that layer; ``None`` where it has none.
    """

    layer: str
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        at = "" if self.position is None else f" at {self.position}"
        return f"{self.layer}{at}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Notification:
    """One message of MPS or a sister service, understood.

    Args:
        kind: Which message it is.
        route: What a handler is looked up by: the FunctionName of an IProduction job, else the kind's name
            as it came (an unknown ``Type`` keeps its own text).
        function: The FunctionName; ``None`` for other kinds.
        job_id: JobId, or RunId of a workflow; ``None`` where there is none.
        state: The state's text as it came (``""`` where the kind has none).
        phase: What it means.
        code: The service's code; ``None`` where absent.
        message: The service's wording; ``None`` where absent.
        user_data_text: UserData as it came; ``None`` when missing, empty or ``null``.
        user_data: UserData decoded: a JSON object or array, else the text itself, else ``None``.
        result_text: A Result or Data that came with the message after all; ``None`` as a rule.
        document: The whole message as JSON, keys as they came (first of two spellings).
    """

    kind: Kind
    route: str
    function: str | None
    job_id: str | None
    state: str
    phase: Phase
    code: str | None
    message: str | None
    user_data_text: str | None
    user_data: JsonValue
    result_text: str | None
    document: dict[str, JsonValue]


def decode(body: bytes) -> Notification | Undecodable:
    """Read one body. Total: any bytes give a value."""
    raise NotImplementedError
