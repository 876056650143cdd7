"""Training of the tiny weights that ship, and what other trainings share."""
