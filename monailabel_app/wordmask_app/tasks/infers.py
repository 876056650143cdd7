"""Infer tasks: one per model, as MONAI Label lists and calls them.

InferTask and not BasicInferTask: the latter overwrites the answer's ``label_names`` with static labels after
the writer has run. Knows requests and the runtime; not HTTP and not the datastore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from wordmask.data.geometry import Plane
from wordmask.inference.hints import check_kinds
from wordmask.inference.request import check_prompt_sets
from wordmask.models.loading import segmenter_class
from wordmask.words.labels import LabelTable
from wordmask.words.prompts import Prompt
from wordmask_app.jobs.requests import InferRequest
from wordmask_app.jobs.runtime import Runtime


class WordMaskInfer(InferTask):  # type: ignore[misc]  # monailabel has no types
    """A text-prompted model as MONAI Label sees it.

    Keeps nothing of a request, so that two at the same time cannot mix.
    """

    def __init__(self, name: str, runtime: Runtime, default_words: Sequence[Prompt]) -> None:
        preset = runtime.models[name].preset
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=LabelTable.from_prompts(default_words).names(),
            dimension=3,
            description=f"{preset.title}: {preset.description}",
            # What MONAI Label's own plugin shows in its table of options; a list is a choice.
            config={"words": ", ".join(prompt.word for prompt in default_words), "plane": ["auto", *Plane]},
        )
        self.name = name
        self._runtime = runtime
        self._default_words = tuple(default_words)

    def is_valid(self) -> bool:
        """True, because the model was loaded when the server started."""
        return True

    def check_request(self, params: Mapping[str, Any]) -> InferRequest:
        """Check the parameters of a request against what the model can do.

        Raises:
            PromptError: the words cannot be used.
            RequestError: another parameter cannot be used.
        """
        request = InferRequest.from_params(params, default_words=self._default_words)
        capabilities = segmenter_class(self.name).capabilities
        check_prompt_sets(request.prompts, capabilities, self.name)
        check_kinds(request.hints, len(request.prompts), capabilities, self.name)
        return request

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment ``image``, a file, with the other parameters of the request.

        Returns:
            The result file, which the caller removes, and its JSON.
        """
        result = self._runtime.segment(self.name, Path(request["image"]), self.check_request(request))
        return str(result.file), result.fields
