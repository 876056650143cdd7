"""``python -m wordmask.cli``: the same as the command ``wordmask``."""

import sys

from wordmask.cli import main

sys.exit(main())
