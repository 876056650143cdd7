"""Images in files and in memory: readers, geometry, slices, CT windows, and the square that a model sees."""
