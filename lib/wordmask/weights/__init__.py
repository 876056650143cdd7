"""Weights: the catalogue of public ones, WordMask's own checkpoints and versions, and the app folder."""
