"""Make up the result of a job: the sample of its function's module in the catalogue, in the form of its family.

The numbers are derived from the job's id: one job always has the same result.

Source: facts/iproduction.md#result, facts/iproduction.md#result-families.
"""

import json
import posixpath
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from consumer.functions.catalogue import Family, find


@dataclass(frozen=True, slots=True)
class Files:
    """Names the files that a job writes.

    Attributes:
        input: The job's Input; "" when it had none.
        output: The job's Output template; "" when it had none.
        timestamp_ms: What ``{timestamp}`` becomes.
    """

    input: str
    output: str
    timestamp_ms: int

    def key(self, number: int, ending: str, result_type: str = "main") -> str:
        """Give the object key, without the bucket, of the file with this ordinal (from 1).

        What ``{resultType}`` may become is unknown beyond the value ``main`` of CaptionExtraction's ``track``.

        Source: facts/iproduction.md#output-placeholders.
        """
        source = posixpath.splitext(posixpath.basename(urlsplit(self.input).path))[0] or "input"
        template = urlsplit(self.output).path.lstrip("/") or ("iproduction/{source}-{timestamp}-{sequenceId}." + ending)
        values = {
            "source": source,
            "timestamp": str(self.timestamp_ms),
            "sequenceId": f"{number:05d}",
            "resultType": result_type,
        }
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
        return template

    def keys(self, count: int, ending: str) -> list[str]:
        """Give the keys of ``count`` files; without ``{sequenceId}`` they would be one and the same file."""
        return list(dict.fromkeys(self.key(number, ending) for number in range(1, count + 1)))


def result_of(name: str, files: Files, job_id: str) -> str:
    """Make up the text of QueryIProductionJob's ``Result`` for a job that succeeded.

    Args:
        name: FunctionName; one that is not documented gets the least that any function answers.
        files: Names of what the job wrote.
        job_id: Seeds the numbers.

    Returns:
        JSON; where there is data, ``Data`` is JSON once more.
    """
    function = find(name)
    if function is None or function.family is Family.DETAILS:
        return compact({"Details": [], "Message": "success", "Code": "Success"})
    sample = function.sample
    data = sample.data(files.keys(sample.files, sample.ending), random.Random(job_id))  # noqa: S311 - made-up figures
    if function.family is Family.ARRAY:
        return compact({"Message": "success", "Data": compact(data), "Code": "Success"})
    return compact({"Code": "Success", "Message": "Successful.", "Data": compact(data)})


def has_details(name: str) -> bool:
    """Whether the function's notification carries ``Details: []`` and says ``success``.

    The printed samples differ so by the family of the result (INF).
    """
    function = find(name)
    return function is None or function.family is not Family.OBJECT


def failure(code: str, message: str) -> str:
    """Make the ``Result`` of a job that failed. No sample of one exists: the least that any result has."""
    return compact({"Code": code, "Details": [], "Message": message})


def compact(value: Any) -> str:
    """Write JSON as the service does: no spaces, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
