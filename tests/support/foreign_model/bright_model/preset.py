"""What a preset of the bright model says."""

from pydantic import Field, PositiveInt

from wordmask.models.presets import Preset


class BrightPreset(Preset):
    """The size of its square, and the grey value from which it marks before it has learned."""

    side: PositiveInt = Field(description="pixels along the square that every slice is fitted into")
    level: float = Field(ge=0, le=1)
