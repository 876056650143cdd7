"""Experiments on real images; docs/experiments.md says what came of them, and which command makes each table."""
