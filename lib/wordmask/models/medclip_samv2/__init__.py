"""MedCLIP-SAMv2: CLIP's response to a word becomes a box or points for SAM, without any training."""

from wordmask.models.medclip_samv2.preset import MedCLIPSAMv2Preset
from wordmask.models.registry import ModelEntry
from wordmask.resources import configs

MODEL = ModelEntry(
    preset=MedCLIPSAMv2Preset,
    presets=configs("models", "medclip_samv2"),
    segmenter="wordmask.models.medclip_samv2.model:MedCLIPSAMv2",
    trainings=(
        "wordmask.learning.clip_tuning.run:TRAINING",
        "wordmask.learning.teaching.run:TRAINING",
        "wordmask.learning.teaching.zero_shot_run:TRAINING",
    ),
)
