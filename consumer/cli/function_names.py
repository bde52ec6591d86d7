"""The documented FunctionNames, for hints on the command line; the daemon itself takes any name.

Elsewhere: what is really handled is found at start (``plugin.registry``).
"""

from __future__ import annotations

import difflib
from typing import Final

DOCUMENTED: Final = (
    "VideoH2V",
    "VideoDelogo",
    "Cover",
    "VideoClip",
    "ImageH2V",
    "ImageDelogo",
    "CaptionExtraction",
    "VideoDetext",
    "VideoGreenScreenMatting",
    "MusicSegmentDetect",
    "AudioMixing",
    "AudioBeatDetection",
    "ImageCartoonize",
    "AudioQualityAssessment",
    "FaceBeauty",
    "SpeechDenoise",
)
"""Source: facts/iproduction.md#functions."""


def nearest(name: str) -> str | None:
    """The documented name that is spelt most like this one; ``None`` when none is near."""
    by_folded = {known.lower(): known for known in DOCUMENTED}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None
