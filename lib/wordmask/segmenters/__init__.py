"""Text-prompted segmentation models behind one contract; see base.py."""

from wordmask.segmenters.base import load_segmenter

__all__ = ["load_segmenter"]
