"""MedCLIP-SAMv2: CLIP's response to a word becomes a box or points for SAM, without any training."""
