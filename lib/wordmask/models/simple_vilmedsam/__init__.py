"""Simple-ViLMedSAM: CLIP's map of a word becomes a position prompt for SAM's mask decoder."""
