"""FaceBeauty: beautify the faces in a video.

Input a video; JobParams unknown.

Format: unknown, no sample exists: any JSON is kept. Once samples are at hand, fields take the place of ``root``.

Source: facts/iproduction.md#facebeauty.
"""

import structlog

from consumer import AnyResult, Job, handler

log = structlog.get_logger()


class FaceBeautyResult(AnyResult):
    """What a FaceBeauty job gives, whatever it is."""


@handler("FaceBeauty")
async def face_beauty(job: Job[FaceBeautyResult]) -> None:
    """Log the beginning of the result, and where the video goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    log.info("faces beautified", job_id=job.job_id, result=job.result.summary(), output=job.output)
