"""Learning from labelled cases, captions and unlabelled images, and how well it went.

Never imported by what serves masks.
"""
