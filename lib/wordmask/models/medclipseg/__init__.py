"""MedCLIPSeg: segmentation inside CLIP, with probabilistic adapters between its two towers."""

from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.registry import ModelEntry
from wordmask.resources import configs

MODEL = ModelEntry(
    preset=MedCLIPSegPreset,
    presets=configs("models", "medclipseg"),
    segmenter="wordmask.models.medclipseg.model:MedCLIPSeg",
    trainings=(
        "wordmask.learning.finetuning.medclipseg:TRAINING",
        "wordmask.learning.teaching.run:TRAINING",
    ),
)
