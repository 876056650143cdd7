"""How well masks agree with labelled cases.

metrics, whole evaluations of a model or of ready label maps, and their reports.

``metrics``: two masks; ``answers``: who is judged; ``run``: all cases, with what is written on the way;
``statistics``: many cases in few numbers; ``tables`` and ``contact_sheet``: what people read.
"""
