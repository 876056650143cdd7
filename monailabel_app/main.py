"""What MONAI Label loads: it runs this file as a loose module and looks for one subclass of MONAILabelApp in
it.

Everything else is in the installed package wordmask_app, imported absolutely: relative imports fail in a
loose module.
"""

from wordmask_app.app import WordMaskApp

__all__ = ["WordMaskApp"]
