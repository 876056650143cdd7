"""Everything that can go wrong because of what a user gave us.

Each message is one sentence that a clinician can act on.

Knows nothing else of the package. The command line turns these into exit status 2, the server into a 4xx
answer.
"""


class WordMaskError(Exception):
    """Base of all errors that are shown to the user as they are: no path of the server, no stack trace."""


class VolumeError(WordMaskError):
    """An image cannot be read, written, or used."""


class PromptError(WordMaskError):
    """The typed words cannot be used."""


class RequestError(WordMaskError):
    """A plane, window, threshold, slice range or hint does not fit the image or the model."""


class UnknownModelError(WordMaskError):
    """There is no model or preset of that name."""


class WeightsError(WordMaskError):
    """Pretrained weights are missing, damaged, or of another architecture."""


class UntrainedError(WeightsError):
    """A model has no weights of its own before somebody trains it."""


class TrainingError(WordMaskError):
    """A training stopped before its end, for a reason that only the log explains; nothing was published."""


class TooLargeError(WordMaskError):
    """An image, an upload or a request is beyond the limits that were set."""


class OutOfMemoryError(WordMaskError):
    """The device or the machine has not enough memory for a request, even with the smallest batches."""


class DiskFullError(WordMaskError):
    """There is no room for what was to be written."""


class CancelledError(WordMaskError):
    """The caller asked to stop; nothing was written."""
