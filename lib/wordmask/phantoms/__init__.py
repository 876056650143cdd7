"""Synthetic patients and pictures with known labels.

What the bundled tiny weights are trained on, and the sample data.

They look like medical images only roughly. Nothing measured on them says anything about patients.
"""

GENERATOR_VERSION = 1
SLICE_SIZE = 160  # side of a phantom slice, in pixels, as the bundled weights were trained on
