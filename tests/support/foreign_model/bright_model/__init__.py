"""A model in a package of its own: what somebody writes who brings one, without touching WordMask."""

from importlib.resources import files

from bright_model.preset import BrightPreset
from wordmask.models.registry import ModelEntry

MODEL = ModelEntry(
    preset=BrightPreset,
    presets=files("bright_model") / "presets",
    segmenter="bright_model.model:Bright",
    trainings=("bright_model.training:TRAINING",),
)
