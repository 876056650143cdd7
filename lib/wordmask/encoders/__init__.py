"""Public encoders, frozen or in training: CLIP and SAM."""
