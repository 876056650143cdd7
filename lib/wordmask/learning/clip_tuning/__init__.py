"""The CLIP of MedCLIP-SAMv2 learns from images with captions."""
