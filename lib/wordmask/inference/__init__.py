"""From a volume and words to a label map.

The request, slices in batches, cached features, overlaps, and the result.
"""
