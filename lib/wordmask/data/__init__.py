"""Images in files and in memory: reading, geometry, slices, windows, and the square that a model sees."""
