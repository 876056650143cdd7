"""nnU-Net that learned from masks of MedCLIP-SAMv2."""
