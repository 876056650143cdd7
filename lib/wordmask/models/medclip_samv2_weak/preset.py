"""What a preset of MedCLIP-SAMv2 with weak supervision says (configs/models/medclip_samv2_weak)."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from wordmask.models.presets import Preset


class MedCLIPSAMv2WeakPreset(Preset):
    """Which model draws the masks that the networks learn from."""

    teacher: str = Field(description="the model whose preset of the same name draws the masks")

    def advise_on_unknown_word(self, trained: Collection[str]) -> str:
        """As `Preset`; the networks have one channel per trained word, the teacher takes any word."""
        return f"it knows {', '.join(sorted(trained))}. Train it on that word, or ask {self.teacher}."
