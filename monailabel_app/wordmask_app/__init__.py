"""The MONAI Label app of WordMask: HTTP on one side, the library `wordmask` on the other.

The library knows nothing of it.
"""
