"""Teaching a word with a few pictures: what is learned, kept, judged, repeated and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.labelled_pictures import WORD, disc, write_case
from tests.support.small_volumes import a_volume
from tests.support.taught import EVEN, random_committee, taught_stub

from wordmask.errors import CancelledError, RequestError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.presence_limits import describe_limits, limit_for
from wordmask.learning.recipes import Recipe, TeachingRecipe
from wordmask.learning.teaching import run as teaching
from wordmask.learning.teaching.augmentation import STRENGTHS, augment
from wordmask.learning.teaching.fit import Batches
from wordmask.learning.teaching.judging import is_single, weigh
from wordmask.learning.teaching.samples import Kind, Samples, collect
from wordmask.learning.training import TrainingReport, TrainingRequest, find_training, recipe_names
from wordmask.models.loading import load_segmenter
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.progress import CancelToken
from wordmask.weights.card import TaughtWord
from wordmask.weights.checkpoint import load_checkpoint, read_card
from wordmask.weights.versions import ModelStore

MODEL = "simple_vilmedsam"
SMALL = {"steps": 12, "batch": 8, "sides": (64,)}
TINY_RUN = {"steps": 1, "batch": 2, "sides": (32,), "members": ("lean", "lean")}


def ask(**changes) -> TrainingRequest:
    force, start, preset = (changes.pop(name, default) for name, default in ASKED)
    recipe = TeachingRecipe.load("quick", **{**SMALL, **changes})
    return TrainingRequest(model=MODEL, preset=preset, recipe=recipe, device="cpu", force=force, start=start)


ASKED = (("force", False), ("start", None), ("preset", "tiny"))


def teach(cases, store, folder, **changes) -> TrainingReport:
    return find_training(MODEL, "quick").run(cases, ask(**changes), store, run_folder=folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    return [write_case(folder, seed) for seed in range(6)] + [write_case(folder, 50, empty=True)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> tuple[ModelStore, TrainingReport]:
    folder = tmp_path_factory.mktemp("store")
    store = ModelStore(folder / MODEL)
    return store, teach(cases, store, folder / "run")


def test_teaching_is_the_usual_way_and_the_recipe_chooses_another():
    assert recipe_names(MODEL, "tiny") == ["few_shot", "quick", "decoder", "zero_shot"]
    assert find_training(MODEL) is find_training(MODEL, "few_shot") is teaching.TRAINING
    assert find_training(MODEL, "zero_shot").recipe is Recipe
    assert find_training("medclip_samv2", "few_shot") is teaching.TRAINING
    with pytest.raises(RequestError, match="Did you mean 'decoder'"):
        find_training(MODEL, "decodr")


def test_a_word_that_no_weights_have_met_is_learned(taught, cases):
    store, report = taught
    assert report.version == store.served() == 1
    assert report.mean > max(0.4, report.mean_before)
    assert "cannot be judged" in report.message
    card = read_card(store.folder(1))
    assert card.learned == card.words == (WORD,)
    assert set(card.committee.held_out) == set(report.validation_cases)
    assert set(report.validation_cases) < {case.name for case in cases}
    assert card.committee.words[WORD].single
    assert card.as_json()["seconds"]["steps"] == 12 + 12 + 18
    size = sum(path.stat().st_size for path in store.folder(1).iterdir())
    assert size < 12_000_000


def test_what_is_served_has_the_measured_dice_and_other_words_are_as_before(taught, cases):
    store, report = taught
    served = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    assert isinstance(served, TaughtSegmenter)
    judges = [case.read() for case in cases if case.name in report.validation_cases]
    assert validate(served.only(0), judges).mean == pytest.approx(report.mean)
    volume = a_volume(disc(9)[0][None], modality="picture")
    bundled = load_segmenter(MODEL, device="cpu")
    for word in ("polyp", "skin lesion"):
        one, other = (VolumeSegmenter(model).segment(volume, word) for model in (served, bundled))
        assert np.array_equal(one.labels, other.labels)


def test_the_same_seed_gives_the_same_weights(cases, tmp_path):
    for name in ("one", "two"):
        teach(cases[:3], ModelStore(tmp_path / name), tmp_path, force=True, **TINY_RUN)
    one, two = (load_checkpoint(ModelStore(tmp_path / name).folder(1)).tensors for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_judge_never_learns_from_what_judges_it_also_in_later_versions(cases, tmp_path, monkeypatch):
    seen: list[set[str]] = []

    class Spy(teaching.Fit):
        def run(self, samples, new, **told):
            seen.append({case for own in samples.values() for case in own.cases})
            super().run(samples, new, **told)

    monkeypatch.setattr(teaching, "Fit", Spy)
    store = ModelStore(tmp_path / MODEL)
    first = teach(cases[:4], store, tmp_path, force=True, **TINY_RUN)
    second = teach(cases[4:], store, tmp_path, force=True, **TINY_RUN)
    assert set(first.validation_cases) <= set(second.validation_cases)
    for report, (judge, other) in zip((first, second), (seen[:2], seen[2:]), strict=True):
        assert not judge.intersection(report.validation_cases)
        assert other == set(report.training_cases)
    assert second.parent == 1


def test_a_second_word_keeps_the_first_even_when_its_files_are_gone(tmp_path):
    store = ModelStore(tmp_path / MODEL)
    gone = [write_case(tmp_path / "gone", seed) for seed in (1, 2)]
    teach(gone, store, tmp_path, force=True, **TINY_RUN)
    for path in (tmp_path / "gone").iterdir():
        path.unlink()
    other = [replace(write_case(tmp_path / "new", seed), words={"tibia": (1,)}) for seed in (3, 4)]
    report = teach(other, store, tmp_path, force=True, **TINY_RUN)
    assert report.training_cases == ["picture_3", "picture_4"]
    card, before = read_card(store.folder(2)), read_card(store.folder(1))
    assert list(card.committee.words) == [WORD, "tibia"]
    assert card.committee.words[WORD] == before.committee.words[WORD]
    assert card.learned == (WORD, "tibia")


def test_networks_of_another_form_cannot_keep_a_word_without_cases(tmp_path):
    store = ModelStore(tmp_path / MODEL)
    taught = [write_case(tmp_path / "one", seed) for seed in (1, 2)]
    teach(taught, store, tmp_path, force=True, **TINY_RUN)
    for path in (tmp_path / "one").iterdir():
        path.unlink()
    other = [replace(write_case(tmp_path / "two", seed), words={"tibia": (1,)}) for seed in (3, 4)]
    with pytest.raises(RequestError, match="Version 1 knows blob, of which there is no case"):
        teach(other, store, tmp_path, force=True, **{**TINY_RUN, "members": ("lean",)})


def test_pictures_of_a_word_with_a_side_are_not_mirrored_in_the_training(tmp_path):
    read = [
        replace(write_case(tmp_path / word, 1), words={word: (1,)}).read() for word in ("blob", "left lung")
    ]
    base = taught_stub().base
    committee = random_committee(
        base, {"blob": TaughtWord(weights=EVEN), "left lung": TaughtWord(weights=EVEN)}
    )
    kinds = collect(read, base, committee, frozenset(), cancel=CancelToken())
    assert {kind.words: kind.mirror for kind in kinds} == {("blob",): True, ("left lung",): False}


def test_a_word_that_the_model_knows_well_is_judged_with_its_vote(tmp_path, monkeypatch):
    monkeypatch.setattr(
        teaching.TeachingRun, "_measure_frozen", lambda self, base, cases, cache: {"polyp": 0.9}
    )
    cases = [replace(write_case(tmp_path, seed), words={"polyp": (1,)}) for seed in (1, 2, 3)]
    store = ModelStore(tmp_path / MODEL)
    report = teach(cases, store, tmp_path, force=True, **{**TINY_RUN, "sides": (64,)})
    word = read_card(store.folder(1)).committee.words["polyp"]
    assert word.frozen
    assert word.weights[-1] > 0.1
    served = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    judges = [case.read() for case in cases if case.name in report.validation_cases]
    assert validate(served.only(0), judges).mean == pytest.approx(report.mean)


def test_a_model_with_a_trained_decoder_is_taught_on_top_of_it(cases, tmp_path, few_phantoms):
    store = ModelStore(tmp_path / MODEL)
    asked = TrainingRequest(
        model=MODEL,
        preset="tiny",
        recipe=Recipe.load("decoder", epochs=1, steps_per_epoch=1, views=1, replay=0.0),
        device="cpu",
        force=True,
    )
    find_training(MODEL, "decoder").run(cases[:2], asked, store, run_folder=tmp_path / "run")
    for _ in range(2):
        teach(cases[2:4], store, tmp_path, force=True, **TINY_RUN)
    decoder = load_checkpoint(store.folder(1)).tensors
    for number in (2, 3):
        kept = load_checkpoint(store.folder(number) / "base").tensors
        assert all(torch.equal(kept[name], decoder[name]) for name in decoder)
        served = load_segmenter(MODEL, device="cpu", weights=store.folder(number))
        own = served.base.state_dict()
        assert all(torch.equal(own[name], decoder[name]) for name in decoder if name.startswith("decoder."))
    with pytest.raises(RequestError, match=r"was taught words.*use recipe few_shot"):
        find_training(MODEL, "decoder").run(cases[:2], asked, store, run_folder=tmp_path / "again")


def test_too_few_cases_and_cases_that_cannot_be_read(cases, tmp_path):
    store = ModelStore(tmp_path / MODEL)
    with pytest.raises(RequestError, match="no labelled case"):
        teach([], store, tmp_path)
    with pytest.raises(RequestError, match="label another one"):
        teach(cases[:1], store, tmp_path)
    with pytest.raises(RequestError, match="nothing to learn"):
        teach([cases[-1]], store, tmp_path, force=True)
    with pytest.raises(RequestError, match="Two cases are called"):
        teach([cases[0], cases[0]], store, tmp_path)
    broken = replace(cases[0], name="broken", label=tmp_path / "missing.png")
    report = teach([*cases[1:3], broken], store, tmp_path, force=True, **TINY_RUN)
    assert [sentence.split(":")[0] for sentence in report.skipped] == ["broken"]


def test_a_cancelled_training_publishes_nothing(cases, tmp_path):
    cancel, store = CancelToken(), ModelStore(tmp_path / MODEL)
    with pytest.raises(CancelledError):
        find_training(MODEL).run(
            cases[:3],
            ask(force=True, **TINY_RUN),
            store,
            run_folder=tmp_path,
            cancel=cancel,
            report=lambda progress: cancel.cancel() if "network 2" in progress.stage else None,
        )
    assert store.versions() == []


def test_a_training_that_does_not_help_is_not_published(taught, cases, tmp_path):
    store, _ = taught
    report = teach(cases, store, tmp_path, **{**TINY_RUN, "rate": 1e-12})
    assert report.version is None
    assert "did not help" in report.message
    assert store.served() == 1


def test_the_limit_of_presence_keeps_absent_cases_empty_or_is_not_used():
    limit = limit_for([0.1, 0.2, 0.3, 0.35, 0.9], [0.4, 0.95, 0.99, 0.97])
    assert (limit.absent_cases, limit.kept_empty, limit.kept_found) == (5, 0.8, 1.0)
    told = describe_limits({"blob": limit, "femur": None})
    assert "Of 5 held-out cases without 'blob', 80% stay unmarked, and 100% of those with it" in told
    assert "Whether 'femur' is in an image cannot be judged" in told


def test_held_out_cases_without_the_structure_teach_when_it_is_absent(tmp_path):
    showing = [write_case(tmp_path, seed) for seed in range(26)]
    empty = [write_case(tmp_path, seed, empty=True) for seed in range(50, 60)]
    store = ModelStore(tmp_path / MODEL)
    report = teach([*showing, *empty], store, tmp_path / "run", force=True, held_out=0.4)
    assert "Of 5 held-out cases without 'blob', 100% stay unmarked" in report.message
    card = read_card(store.folder(report.version)).committee
    assert card.words[WORD].presence.pooled  # learned from the five that are not held out
    segmenter = load_segmenter(MODEL, preset="tiny", device="cpu", weights=store.folder(report.version))
    scores = validate(segmenter, [case.read() for case in (*showing[:6], *empty)])
    assert scores.mean > 0.8  # an empty case counts 1 when nothing is marked


@pytest.mark.parametrize(("showing", "empty"), [(26, 4), (12, 10)])
def test_too_few_held_out_cases_cannot_tell_when_it_is_absent(tmp_path, showing, empty):
    cases = [write_case(tmp_path, seed) for seed in range(showing)]
    cases += [write_case(tmp_path, seed, empty=True) for seed in range(50, 50 + empty)]
    store = ModelStore(tmp_path / MODEL)
    report = teach(cases, store, tmp_path, force=True, held_out=0.4, **TINY_RUN)
    assert "takes at least 5 held-out cases without it and 10 with it" in report.message
    assert read_card(store.folder(report.version)).committee.words[WORD].presence is None


def test_members_count_the_same_and_the_frozen_model_by_its_dice():
    assert weigh([0.5], 2, 0, None) == (0.5, 0.5, 0.0, 0.0)
    weak, strong = weigh([0.8, 0.8], 2, 0, 0.3), weigh([0.4], 2, 0, 0.9)
    assert sum(weak) == pytest.approx(1)
    assert weak[-1] < 0.05
    assert strong[-1] > 0.8
    assert weigh([], 3, 0, 0.5)[-1] < 0.1
    assert weigh([], 2, 4, None) == weigh([], 2, 10, None) == (0.25, 0.25, 0.5, 0.0)
    assert weigh([], 2, 20, None) == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0.0))


def test_a_structure_is_single_when_its_pictures_show_one_piece(tmp_path):
    read = [write_case(tmp_path, seed).read() for seed in (1, 2)]
    assert is_single(read, WORD)
    torn = read[0].masks[WORD].copy()
    torn[:, 20:24] = False
    torn[:, 0, :3] = True
    assert not is_single([replace(read[0], masks={WORD: torn}), read[1]], WORD)
    assert not is_single([], WORD)


def _kind(**changes):
    return Kind(**{"side": 8, "words": ("blob",), "mirror": False, "picture": True, **changes})


def _samples(present: int, absent: int) -> Samples:
    masks = [torch.full((1, 8, 8), 255, dtype=torch.uint8)] * present
    masks += [torch.zeros(1, 8, 8, dtype=torch.uint8)] * absent
    names = [f"case_{number}" for number in range(len(masks))]
    pixels = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * len(masks)
    return Samples(names, pixels, masks, [torch.zeros(1, 2, 8, 8, dtype=torch.float16)] * len(masks))


@pytest.mark.parametrize(
    ("picture", "present", "absent", "negatives"),
    [(True, 10, 3, 0), (True, 10, 10, 5), (True, 100, 10, 1), (False, 10, 1, 5), (False, 0, 4, 16)],
)
def test_how_many_slices_of_a_batch_do_not_show_the_word(picture, present, absent, negatives):
    recipe = TeachingRecipe.load("few_shot", batch=16, negatives=0.3)
    samples = {_kind(picture=picture): _samples(present, absent)}
    batches = Batches(samples, frozenset({"blob"}), recipe)
    _, rows = batches.draw(torch.Generator().manual_seed(1))
    assert len(rows) == 16
    assert sum(row >= present for row in rows) == negatives


def test_old_words_get_their_share_of_the_steps():
    recipe = TeachingRecipe.load("few_shot", replay=0.25)
    old, new = _kind(words=("blob",)), _kind(words=("tibia",))
    batches = Batches({old: _samples(3, 0), new: _samples(3, 0)}, frozenset({"tibia"}), recipe)
    generator = torch.Generator().manual_seed(1)
    drawn = [batches.draw(generator)[0] for _ in range(400)]
    assert drawn.count(old) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("name", STRENGTHS)
def test_views_keep_masks_on_what_they_mark_and_the_same_seed_gives_the_same(name):
    pixels = torch.zeros(6, 3, 64, 64)
    pixels[:, :, 20:44, 20:44] = 1
    masks = pixels[:, :1].clone()
    one, two = (
        augment(pixels, masks, STRENGTHS[name], torch.Generator().manual_seed(4), mirror=True)
        for _ in range(2)
    )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    marked = one[1][:, 0] > 0.9
    assert one[0][:, 0][marked].mean() > 0.6
    assert one[0][:, 0][one[1][:, 0] < 0.1].mean() < 0.3
    assert not torch.equal(one[0][0], one[0][1])


def test_a_card_of_a_committee_survives_its_file(taught):
    store, _ = taught
    path = Path(store.folder(1)) / "card.json"
    assert json.loads(path.read_text())["committee"]["members"] == ["pretrained", "pretrained", "lean"]
