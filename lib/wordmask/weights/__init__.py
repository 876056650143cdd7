"""Files of weights: the catalogue of public ones, checkpoints of our own, their versions, and the folder of
an app that holds them.
"""
