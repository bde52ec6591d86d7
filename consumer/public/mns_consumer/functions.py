"""The models of each function's parameters and result, and the forms that a model of your own can extend.

A model is imported when it is first asked for: all of them together would add 35 ms of CPU to each start.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.functions.audio_beat_detection import AudioBeatDetectionParams as AudioBeatDetectionParams
    from consumer.functions.audio_beat_detection import AudioBeatDetectionResult as AudioBeatDetectionResult
    from consumer.functions.audio_mixing import AudioMixingParams as AudioMixingParams
    from consumer.functions.audio_mixing import AudioMixingResult as AudioMixingResult
    from consumer.functions.audio_mixing import MixedFile as MixedFile
    from consumer.functions.audio_quality_assessment import AudioChannel as AudioChannel
    from consumer.functions.audio_quality_assessment import AudioQualityAssessmentParams as AudioQualityAssessmentParams
    from consumer.functions.audio_quality_assessment import AudioQualityAssessmentResult as AudioQualityAssessmentResult
    from consumer.functions.caption_extraction import CaptionExtractionParams as CaptionExtractionParams
    from consumer.functions.caption_extraction import CaptionExtractionResult as CaptionExtractionResult
    from consumer.functions.caption_extraction import Region as Region
    from consumer.functions.catalogue import AnyResult as AnyResult
    from consumer.functions.catalogue import DetailsResult as DetailsResult
    from consumer.functions.catalogue import FilesResult as FilesResult
    from consumer.functions.catalogue import ResultDetail as ResultDetail
    from consumer.functions.catalogue import ResultFile as ResultFile
    from consumer.functions.catalogue import ResultModel as ResultModel
    from consumer.functions.cover import CoverParams as CoverParams
    from consumer.functions.cover import CoverResult as CoverResult
    from consumer.functions.cover import CoverStill as CoverStill
    from consumer.functions.face_beauty import BeautyParams as BeautyParams
    from consumer.functions.face_beauty import FaceBeautyParams as FaceBeautyParams
    from consumer.functions.face_beauty import FaceBeautyResult as FaceBeautyResult
    from consumer.functions.image_cartoonize import ImageCartoonizeParams as ImageCartoonizeParams
    from consumer.functions.image_cartoonize import ImageCartoonizeResult as ImageCartoonizeResult
    from consumer.functions.image_delogo import ImageDelogoParams as ImageDelogoParams
    from consumer.functions.image_delogo import ImageDelogoResult as ImageDelogoResult
    from consumer.functions.image_h2v import ImageH2VParams as ImageH2VParams
    from consumer.functions.image_h2v import ImageH2VResult as ImageH2VResult
    from consumer.functions.music_segment_detect import MusicSegment as MusicSegment
    from consumer.functions.music_segment_detect import MusicSegmentDetectParams as MusicSegmentDetectParams
    from consumer.functions.music_segment_detect import MusicSegmentDetectResult as MusicSegmentDetectResult
    from consumer.functions.parameters import Box as Box
    from consumer.functions.parameters import FunctionParams as FunctionParams
    from consumer.functions.speech_denoise import SpeechDenoiseParams as SpeechDenoiseParams
    from consumer.functions.speech_denoise import SpeechDenoiseResult as SpeechDenoiseResult
    from consumer.functions.video_clip import ClipSpan as ClipSpan
    from consumer.functions.video_clip import VideoClipParams as VideoClipParams
    from consumer.functions.video_clip import VideoClipResult as VideoClipResult
    from consumer.functions.video_delogo import VideoDelogoParams as VideoDelogoParams
    from consumer.functions.video_delogo import VideoDelogoResult as VideoDelogoResult
    from consumer.functions.video_detext import VideoDetextParams as VideoDetextParams
    from consumer.functions.video_detext import VideoDetextResult as VideoDetextResult
    from consumer.functions.video_green_screen_matting import (
        VideoGreenScreenMattingParams as VideoGreenScreenMattingParams,
    )
    from consumer.functions.video_green_screen_matting import (
        VideoGreenScreenMattingResult as VideoGreenScreenMattingResult,
    )
    from consumer.functions.video_h2v import VideoH2VParams as VideoH2VParams
    from consumer.functions.video_h2v import VideoH2VResult as VideoH2VResult
else:
    from consumer.functions.catalogue import model as __getattr__  # noqa: F401 - PEP 562
