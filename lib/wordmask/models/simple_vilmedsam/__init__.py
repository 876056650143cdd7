"""Simple-ViLMedSAM: CLIP's map of a word becomes a position prompt for SAM's mask decoder."""

from wordmask.models.registry import ModelEntry
from wordmask.models.simple_vilmedsam.preset import SimpleViLMedSAMPreset
from wordmask.resources import configs

MODEL = ModelEntry(
    preset=SimpleViLMedSAMPreset,
    presets=configs("models", "simple_vilmedsam"),
    segmenter="wordmask.models.simple_vilmedsam.model:SimpleViLMedSAM",
    trainings=(
        "wordmask.learning.teaching.run:TRAINING",
        "wordmask.learning.finetuning.simple_vilmedsam:TRAINING",
    ),
)
