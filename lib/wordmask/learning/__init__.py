"""Learning from labelled cases, captions and unlabelled images, and measuring the result.

Inference never imports it.
"""
