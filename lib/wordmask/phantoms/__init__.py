"""Synthetic patients and pictures with known labels: what the bundled tiny weights are trained on, and the sample data.

They look like medical images only roughly. Nothing measured on them says anything about patients.
"""

GENERATOR_VERSION = 1
