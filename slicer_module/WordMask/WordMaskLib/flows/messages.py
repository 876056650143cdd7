"""What the panel says, in the person's language: stages, questions and results.

Errors bring their own sentence. Knows the texts; not where they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from .flows import Question, Report
from .results_table import ResultRow
from .segmenting import Segmented

try:
    from slicer.i18n import tr as _
except ImportError:  # without the application, as in scripts

    def _(text: str) -> str:
        """Return the English text, as it is."""
        return text


def stage_text(report: Report) -> str:
    """Say how far the work is."""
    if report.stage in ("uploading", "downloading") and report.total:
        sending = report.stage == "uploading"
        text = (
            _("Sending the image: {done} of {total} MB")
            if sending
            else _("Fetching the result: {done} of {total} MB")
        )
        return text.format(done=f"{report.done / 1e6:.1f}", total=f"{report.total / 1e6:.1f}")
    if report.stage == "queued" and report.waiting:
        return _("Waiting for {count} other requests").format(count=report.waiting)
    if report.stage == "computing" and report.total:
        text = _("Segmenting slice {done} of {total}").format(done=report.done, total=report.total)
        left = time_text(report.seconds_left)
        return text + (_(", about {time} left").format(time=left) if left else "")
    return {
        "connecting": _("Asking the server"),
        "exporting": _("Exporting the image"),
        "uploading": _("Sending the image"),
        "queued": _("Waiting for the server"),
        "computing": _("The server is working"),
        "downloading": _("Fetching the result"),
        "showing": _("Showing the result"),
        "surfaces": _("Creating surfaces for the 3-D view"),
        "starting": _("Starting the training"),
        "choosing": _("Asking the server for the next case"),
        "opening": _("Opening the case"),
        "checking": _("Checking whether the server has this image"),
        "submitting": _("Sending the label map"),
    }.get(report.stage, _("Working"))


def time_text(seconds: float | None) -> str:
    """Say a rough time; "" if it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))


def question_text(question: Question) -> tuple[str, str, str]:
    """Return a question and the texts of its buttons for yes and no."""
    names = ", ".join(question.names)
    if question.kind == "replace_edited":
        text = _("You edited the segment of {names} by hand. Replace it with the new result?")
        return text.format(names=names), _("Replace"), _("Keep mine")
    if question.kind == "overlap":
        text = _(
            "{names} overlap, but a submitted voxel can have only one label. Give shared voxels to the "
            "smaller segment?"
        )
        return text.format(names=names), _("Give to the smaller"), _("Do not submit")
    if question.kind == "unsubmitted":
        text = _(
            "You edited {names} by hand and have not submitted it, so the model will not learn from it. "
            "Train without it?"
        )
        return text.format(names=names), _("Train without"), _("Do not train")
    if question.kind == "replace_label":
        return (
            _("The server already has a final label map of this image. Replace it?"),
            _("Replace"),
            _("Keep it"),
        )
    if question.kind == "second_label":
        text = _(
            "{names} has already submitted the final label map of this image. Replace it, or keep yours "
            "beside it?"
        )
        return text.format(names=names), _("Replace"), _("Keep both")
    return names, _("Yes"), _("No")


def segmented_text(done: Segmented, table: Sequence[ResultRow]) -> str:
    """Say what was found, what was not, and what the server warns about."""
    rows = {row.word: row for row in table}
    found = [_amount(rows[word]) for word in done.imported.ids if word in rows]
    parts = [_("Found: {names}.").format(names=", ".join(found))] if found else []
    missing = not_found_text(done.imported.not_found)
    parts += [missing] if missing else []
    if done.imported.kept:
        parts.append(
            _("The earlier segment of {names} was not changed.").format(names=", ".join(done.imported.kept))
        )
    return " ".join([*parts, *done.warnings])


def not_found_text(words: Sequence[str]) -> str:
    """Name the words that were not found; "" if all were found."""
    return _("Not found: {names}.").format(names=", ".join(words)) if words else ""


def _amount(row: ResultRow) -> str:
    if row.millilitres is None:
        return _("{name} ({count} pixels)").format(name=row.word, count=row.voxels)
    return _("{name} ({volume} ml)").format(name=row.word, volume=millilitres_text(row.millilitres))


def millilitres_text(amount: float) -> str:
    """Round a volume to three digits, because it is not known more exactly."""
    return f"{amount:.0f}" if amount >= 100 else f"{amount:.1f}" if amount >= 10 else f"{amount:.2f}"
