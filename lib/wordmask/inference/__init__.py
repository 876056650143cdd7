"""From a volume and words to a label map: request, batches of slices, cached features, overlaps, result."""
