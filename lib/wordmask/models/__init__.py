"""Text-prompted segmentation models behind one contract (base.py); a model is one folder."""
