"""How well masks agree with labelled cases.

- ``metrics``: two masks
- ``answers``: who is judged, a model or ready label maps
- ``run``: all cases of an evaluation, and its files
- ``statistics``: many cases in few numbers
- ``tables`` and ``contact_sheet``: what people read
"""
