"""The preset of MedCLIP-SAMv2 with weak supervision (configs/models/medclip_samv2_weak)."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from wordmask.models.presets import Preset


class MedCLIPSAMv2WeakPreset(Preset):
    """The settings of all models, and which model draws the masks that the networks learn from."""

    teacher: str = Field(description="the model whose preset of the same name draws the masks")

    def advise_on_unknown_word(self, trained: Collection[str]) -> str:
        """What to do when the model refuses a word: it has a channel per trained word; its teacher takes any.

        Args:
            trained: the words that it knows.
        """
        return f"it knows {', '.join(sorted(trained))}. Train it on that word, or ask {self.teacher}."
