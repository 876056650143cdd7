"""Errors that a user can cause, each with a sentence that a clinician can act on.

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
    """A model does not have weights of its own until it is trained."""


class TrainingError(WordMaskError):
    """A training failed for a reason that only the log explains; nothing was published."""


class TooLargeError(WordMaskError):
    """An image, an upload or a request is beyond the limits that were set."""


class OutOfMemoryError(WordMaskError):
    """The device or the machine lacks the memory for a request, even with the smallest batches."""


class DiskFullError(WordMaskError):
    """The disk has no room for a file."""


class CancelledError(WordMaskError):
    """The caller cancelled the request; nothing was written."""
