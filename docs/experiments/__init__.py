"""Experiments on real images; docs/experiments.md has the results and the commands."""
