"""Text-prompted segmentation models behind one contract (base.py), each in a folder of its own."""
