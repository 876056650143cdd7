"""What MONAI Label loads: a loose module with one subclass of MONAILabelApp.

Everything else is in the installed package wordmask_app, imported absolutely, because relative imports fail
in a loose module.
"""

from wordmask_app.app import WordMaskApp

__all__ = ["WordMaskApp"]
