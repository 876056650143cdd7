"""Weak supervision: nnU-Net learns from the zero-shot masks of unlabelled images (methods.md 2.4)."""
