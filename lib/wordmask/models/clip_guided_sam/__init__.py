"""CLIP-Guided SAM: a word guides SAM's image encoder through CLIP, and clicks or a box correct the mask."""

from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset
from wordmask.models.registry import ModelEntry
from wordmask.resources import configs

MODEL = ModelEntry(
    preset=CLIPGuidedSAMPreset,
    presets=configs("models", "clip_guided_sam"),
    segmenter="wordmask.models.clip_guided_sam.model:CLIPGuidedSAM",
    trainings=(
        "wordmask.learning.finetuning.clip_guided_sam:TRAINING",
        "wordmask.learning.teaching.run:TRAINING",
    ),
)
