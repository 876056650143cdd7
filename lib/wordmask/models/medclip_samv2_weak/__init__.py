"""MedCLIP-SAMv2 with weak supervision: nnU-Nets that learned from its masks."""

from wordmask.models.medclip_samv2_weak.preset import MedCLIPSAMv2WeakPreset
from wordmask.models.registry import ModelEntry
from wordmask.resources import configs

MODEL = ModelEntry(
    preset=MedCLIPSAMv2WeakPreset,
    presets=configs("models", "medclip_samv2_weak"),
    segmenter="wordmask.models.medclip_samv2_weak.model:MedCLIPSAMv2Weak",
    trainings=("wordmask.learning.weak.run:TRAINING",),
)
