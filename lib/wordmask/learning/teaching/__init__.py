"""Teach a model words with a few labelled cases."""
