"""The configurations of WordMask, installed as the package ``wordmask.configs``.

`wordmask.resources` reads them.
"""
