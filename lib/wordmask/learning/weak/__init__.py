"""Weak supervision (methods.md 2.4).

nnU-Net learns from the masks that a zero-shot model draws of unlabelled images.
"""
