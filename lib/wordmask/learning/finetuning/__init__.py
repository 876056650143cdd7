"""A model learns words from labelled cases."""
