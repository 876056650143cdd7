"""CLIP-Guided SAM (arXiv 2605.24807): CLIP's view of a word guides SAM's image encoder and its mask decoder.

Written from the paper's equations (methods.md 4). Differs from the released code, unless the preset asks for
its quirks: SAM is unchanged before a training, similarity is a cosine, slices keep their aspect ratio, and a
mask prompt is written in logits. Points are always chosen instead of drawn at random, and a slice where all
patches are equally similar has none. Beyond the paper: a presence logit. Knows slices, words, CLIP, SAM, and
the frames between them; not volumes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.sam import decode_prompts, load_sam, preprocess
from wordmask.models.adapted_clip import AdaptedClipSegmenter
from wordmask.models.base import (
    Capabilities,
    Hints,
    PromptFeatures,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.clip_guided_sam.guided_pairs import GuidedPairs, RecentPairs
from wordmask.models.clip_guided_sam.map_prompts import (
    drawn_points,
    mask_prompts,
    similarity_maps,
    spread_points,
)
from wordmask.models.clip_guided_sam.network import GuidedNetwork, Started
from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset
from wordmask.models.clip_guided_sam.published import build_encoders, read_published, refuse_misfits
from wordmask.models.registry import load_preset
from wordmask.models.sam_prompts import CENTRE, prompts_of_hints
from wordmask.words.prompts import Prompt

FRAME = "sam"
SEEN = ("image", "patches")  # names of what CLIP makes of a slice
STARTED = ("hidden", "inside", "vision")  # names of the tensors of `Started` among a slice's features
# CLIP-Surgery's sentences, without a word in their gap: OpenAI's 80 and five about scenes.
EMPTY_SENTENCES = (
    *(template("") for template in OPENAI_IMAGENET_TEMPLATES),
    "there is a  in the scene.",
    "there is the  in the scene.",
    "this is a  in the scene.",
    "this is the  in the scene.",
    "this is one  in the scene.",
)


class CLIPGuidedSAM(AdaptedClipSegmenter):
    """CLIP, SAM, and the adapters through which the first guides the second.

    Attributes:
        network: the three of them.
    """

    name = "clip_guided_sam"
    preset: CLIPGuidedSAMPreset
    network: GuidedNetwork
    capabilities = Capabilities(
        hints=frozenset({"points", "box"}), masks=True, presence=True, attribution=True
    )
    without_adapters = (
        "Preset {preset} of CLIP-Guided SAM has a public CLIP and SAM but no trained adapters, because none "
        "have been published; give trained weights, or use the model medclip_samv2, which needs public "
        "weights alone and takes words, points and boxes, too."
    )

    def __init__(
        self, preset: CLIPGuidedSAMPreset, clip: ClipEncoder, sam: Sam, *, trained_words: Sequence[str] = ()
    ) -> None:
        """Put the parts together; the adapters do nothing yet.

        Args:
            preset: of this model.
            clip: the encoder of words and slices.
            sam: with its prompt encoder and mask decoder.
            trained_words: the words that the weights were trained on; empty without such a list.
        """
        super().__init__(preset, GuidedNetwork(clip, sam, preset), trained_words)
        self._empty: Tensor | None = None
        self._recent = RecentPairs()

    @property
    def sam(self) -> Sam:
        """SAM, whose image encoder is guided."""
        return self.network.sam

    @classmethod
    def untrained(
        cls, preset: CLIPGuidedSAMPreset, *, token_ids: Sequence[int] = (), words: Sequence[str] = ()
    ) -> Self:
        """Build public CLIP and SAM with adapters that do nothing, as `AdaptedClipSegmenter.untrained`."""
        clip = load_clip(preset.clip, token_ids=token_ids)
        return cls(preset, clip, load_sam(preset.sam), trained_words=words)

    @classmethod
    def load_reference(cls, path: str | Path) -> Self:
        """Load a checkpoint in the format of the published repository, which holds CLIP and SAM whole.

        The model has the released code's form (preset ``published``).

        Args:
            path: such as supervised_best_IoU__v1_split_1_16_....pth.

        Raises:
            WeightsError: the file is damaged, lacks a tensor, or is of another network.
        """
        path = Path(path)
        tensors = read_published(path)
        preset = load_preset("clip_guided_sam", "published")
        assert isinstance(preset, CLIPGuidedSAMPreset)
        model = cls(preset, *build_encoders())
        refuse_misfits(path, model.network.state_dict(), tensors)
        model.network.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """Digest of the encoders, of the adapters and of how pixels reach them."""
        if self._fingerprint is None:
            network, preset = self.network, self.preset
            self._fingerprint = "-".join(
                [
                    self.clip.vision_fingerprint(),
                    fingerprint(self.sam.image_encoder),
                    fingerprint(network.regular),
                    fingerprint(network.semantic),
                    f"{preset.form}{preset.surgery.image_size}+{preset.surgery.blocks}",
                ]
            )
        return self._fingerprint

    def weights_changed(self) -> None:
        """Discard what was computed from the weights; call it when they have changed."""
        self._fingerprint = self._empty = None
        self._recent.clear()

    def slice_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where SAM's input lies in a slice of (height, width)."""
        return self._fit(size, self.sam.image_encoder.img_size)

    def logits_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the pixels of the logits lie in a slice of (height, width)."""
        return self._fit(size, self._logits_side)

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute the features of slices.

        Args:
            slices: [N, 3, H, W] in 0..1.
            keys: one per slice.

        Returns:
            image [N, E] (unit length), patches [N, c, c, E] of CLIP, and the tensors of `Started`.
        """
        frame = self.slice_frame((slices.shape[-2], slices.shape[-1]))
        valid = frame.valid(slices.device)
        pixels = preprocess(self.sam, frame.to_model(slices), valid)
        tokens = self.network.clip_tokens(pixels, valid)
        seen = {
            "image": F.normalize(tokens[:, 0], dim=-1),
            "patches": as_grid(self.network.normalise(tokens)),
        }
        return self._start(pixels, keys, seen, frame)

    def start_slices(
        self, slices: Tensor, keys: Sequence[SliceKey], seen: Mapping[str, Tensor]
    ) -> SliceFeatures:
        """As `encode_slices`, for a training whose CLIP is frozen and has seen the slices before.

        Args:
            slices: [N, 3, H, W] in 0..1.
            keys: one per slice.
            seen: image and patches of earlier features; others are ignored.
        """
        frame = self.slice_frame((slices.shape[-2], slices.shape[-1]))
        pixels = preprocess(self.sam, frame.to_model(slices), frame.valid(slices.device))
        return self._start(pixels, keys, {name: seen[name].float() for name in SEEN}, frame)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Compute the features of words, one by one.

        Returns:
            word [K, E] (the plain embedding, unit length), text [K, E] (without what all texts have in
            common) and inside [K, S, A], what it adds in each semantic adapter.
        """
        words = [self._embed([prompt.text]) for prompt in prompts]
        text = torch.stack([self.network.text_vector(word, self._empty_embeddings()) for word in words])
        tensors = {
            "word": F.normalize(torch.cat(words), dim=-1),
            "text": text,
            "inside": torch.cat([self.network.text_parts(one[None]) for one in text]),
        }
        known = torch.tensor([self._knows(prompt) for prompt in prompts], dtype=torch.bool)
        return PromptFeatures(tuple(prompts), tensors, known)

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment pairs, as `Segmenter.forward`: logits [P, 4g, 4g] in SAM's frame, padding included.

        A person's hints replace the points of the similarity map in their slice. Its mask prompt remains,
        unless the hints have a mask.
        """
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        if hints is None or not hints.slices() or self.training:
            guided = self.guide(slices, prompts, pairs)
        else:  # the next click is likely to be in the same slice
            keys = [_key_of(slices, prompts, row, word) for row, word in pairs.tolist()]
            guided = self._recent.get_many(keys, lambda rows: self.guide(slices, prompts, pairs[rows]))
        return SegmenterOutput(
            self.draw(guided, hints),
            guided.frame,
            presence=self.presence(slices, prompts, pairs),
            attribution=guided.maps,
        )

    def guide(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> GuidedPairs:
        """Run SAM's encoder for pairs [P, 2], (slice, word), from where their slices were left."""
        rows, words = pairs.to(self.device).unbind(1)
        similarity = similarity_of(
            slices.tensors["patches"][rows].float(), prompts.tensors["text"][words].float()
        )
        started = Started(*(slices.tensors[name][rows].float() for name in STARTED))
        frame = slices.frames[FRAME]
        return GuidedPairs(
            self.network.finish(started, similarity, prompts.tensors["inside"][words].float()),
            similarity_maps(similarity, frame.valid(self.device)),
            tuple(slices.keys[row] for row in rows.tolist()),
            frame,
        )

    def draw(self, guided: GuidedPairs, hints: Hints | None = None) -> Tensor:
        """Draw the masks of pairs: logits [P, 4g, 4g]; without hints, with points of the similarity maps."""
        settings = self.preset.prompts
        if hints is not None:
            guided = guided.with_masks(hints)
        marked = prompts_of_hints(hints, guided.keys, guided.frame)
        if marked is None:
            own = spread_points(guided.maps, settings.points, settings.threshold)
            return self._decode(guided.embeddings, guided.maps, points=own)[:, 0]
        device, points, boxes = self.device, marked.points, marked.boxes
        logits = self._decode(
            guided.embeddings,
            guided.maps,
            points=None if points is None else (points[0].to(device), points[1].to(device)),
            boxes=None if boxes is None else boxes.to(device),
        )[:, 0]
        if marked.given.all():
            return logits
        given = marked.given.to(device)[:, None, None]
        return torch.where(given, logits, self.draw(guided))

    def draw_points(self, guided: GuidedPairs, places: Tensor, labels: Tensor) -> Tensor:
        """Draw the masks of pairs with points of each, instead of those of the similarity maps.

        Args:
            guided: P pairs.
            places: [P, n, 2], (x, y) in pixels of the logits, pixel i centred at i.
            labels: [P, n]: 1 inside, 0 outside, -1 no point.

        Returns:
            Logits [P, 4g, 4g].
        """
        scale = self.sam.image_encoder.img_size / self._logits_side
        points = ((places.to(guided.maps) + CENTRE) * scale - CENTRE, labels.to(guided.maps.device))
        return self._decode(guided.embeddings, guided.maps, points=points)[:, 0]

    def text_only_forward(
        self, image: Tensor, word_ids: Tensor, empty_ids: Tensor, *, drawn: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Segment one picture with a word alone, step by step and without any short cut.

        Args:
            image: [1, 3, S, S], normalised by SAM's mean and deviation; S is 1024 for ViT-B.
            word_ids: [synonyms, context], token ids of the word; synonyms are averaged.
            empty_ids: [texts, context], of sentences without a word, whose common part is subtracted.
            drawn: integer [1, n]: which candidates for points the lot takes, counted in reading order among
                the pixels of the map above the threshold; None: the deterministic choice.

        Returns:
            text [1, E]; fused [1, 1 + c * c, E], the normalised tokens of CLIP plus their similarity;
            embedding [1, C, g, g]; points [1, n, 2] (x, y) in pixels; dense_prompt and logits
            [1, 1, 4g, 4g].

        Raises:
            ValueError: a number of ``drawn`` is not one of a candidate.
        """
        network, settings = self.network, self.preset.prompts
        empty = self.clip.embed_tokens(empty_ids)
        text = network.text_vector(self.clip.embed_tokens(word_ids), empty)[None]
        valid = torch.ones(image.shape[-2:], dtype=torch.bool, device=image.device)
        tokens = network.normalise(network.clip_tokens(image, valid))
        similarity = tokens @ text[0]
        fused = tokens + similarity[..., None]
        embedding = network.encode(image, text, as_grid(fused))
        maps = similarity_maps(as_grid(similarity[..., None])[..., 0], valid)
        if drawn is None:
            points = spread_points(maps, settings.points, settings.threshold)
        else:
            points = drawn_points(maps, drawn, settings.threshold)
        return {
            "text": text,
            "fused": fused,
            "embedding": embedding,
            "points": points[0],
            "dense_prompt": self._mask_prompts(maps),
            "logits": self._decode(embedding, maps, points=points),
        }

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor:
        """Presence logits [P]: the cosine of CLIP's class token and the plain word, scaled."""
        rows, words = pairs.to(self.device).unbind(1)
        image = slices.tensors["image"][rows].float()
        return self.scores.presence((image * prompts.tensors["word"][words]).sum(-1))

    @property
    def _logits_side(self) -> int:
        return 4 * int(self.sam.prompt_encoder.image_embedding_size[0])

    def _fit(self, size: tuple[int, int], side: int) -> Letterbox:
        released = self.preset.form == "released"
        return Letterbox.fit(size, (side, side), "stretch" if released else "top_left")

    def _start(
        self, pixels: Tensor, keys: Sequence[SliceKey], seen: dict[str, Tensor], frame: Letterbox
    ) -> SliceFeatures:
        """Features of SAM's input [N, 3, S, S] and of what CLIP has seen there."""
        started = self.network.start(pixels, seen["patches"])
        tensors = seen | {name: getattr(started, name) for name in STARTED}
        return SliceFeatures(tuple(keys), tensors, {FRAME: frame})

    def _mask_prompts(self, maps: Tensor) -> Tensor:
        released = self.preset.form == "released"
        return mask_prompts(maps, self._logits_side, self.preset.prompts.threshold, released=released)

    def _decode(
        self,
        embeddings: Tensor,
        maps: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
    ) -> Tensor:
        """Logits [P, 1, 4g, 4g] with the maps as mask prompts."""
        masks = self._mask_prompts(maps)
        return decode_prompts(self.sam, embeddings, boxes=boxes, points=points, masks=masks)[0]

    def _embed(self, texts: Sequence[str]) -> Tensor:
        return self.clip.embed_tokens(self.clip.tokenizer(list(texts)).to(self.device))

    def _empty_embeddings(self) -> Tensor | None:
        """Embeddings [texts, E] of the sentences without a word, computed once; None: not wanted."""
        if self.preset.empty_prompt and self._empty is None:
            self._empty = self._embed(EMPTY_SENTENCES).detach()
        return None if self._empty is None else self._empty.to(self.device)


def _key_of(slices: SliceFeatures, prompts: PromptFeatures, row: int, word: int) -> Hashable:
    """Of a pair. What CLIP makes of the slice tells windows apart."""
    seen = slices.tensors["image"][row].float().cpu().numpy().tobytes()
    return slices.keys[row], seen, prompts.prompts[word]


def as_grid(tokens: Tensor) -> Tensor:
    """Patches without the class token, row by row: [N, 1 + c * c, E] -> [N, c, c, E]."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].unflatten(1, (side, side))


def similarity_of(patches: Tensor, text: Tensor) -> Tensor:
    """Products of patches [P, c, c, E] and words [P, E], [P, c, c].

    They are summed row by row, so that no pair depends on the batch.
    """
    return (patches * text[:, None, None]).sum(-1)
