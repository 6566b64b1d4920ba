"""Attacks that run a model: they work where they must and fail where they must.

On a tiny random model with real edits. Keys of random weights depend on the prompt far more than a
trained model's, so candidates' keys are exact here; the slow test has real ones.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from collabedit.attacks import asking
from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import TRIPLE_SEPARATOR, Claim, LackingError
from collabedit.attacks.grey_box import GreyBox, GreyBoxView, LogProbabilities
from collabedit.attacks.ica import DemixedKeys
from collabedit.attacks.open_vocabulary import OpenVocabulary, OpenVocabularySum
from collabedit.attacks.prior import estimated_maps, model_prior, reexpressed
from collabedit.attacks.prompt_recovery import FullTriple, PromptEntropy, found_subjects
from collabedit.attacks.residual_decoding import ResidualDecoding, ResidualRecovery
from collabedit.attacks.scoring import score
from collabedit.attacks.span import UpdateSpan
from collabedit.attacks.top_singular import TopSingular, top_components, without_top
from collabedit.attacks.views import RecipientView
from collabedit.experiments.cache import Cache
from collabedit.ids import LayerIndex
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.editor import key_maps
from collabedit.party.editing.hooks import capturing_input
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate
from tests.audit import camouflage_world
from tests.audit.model_world import Scene, scene_of
from tests.support.federations import build_federation
from tests.support.tiny_models import D_IN, D_MODEL, VOCABULARY, build_tiny_model

LAYER, EDITED, POOL = 1, 6, 40
PROMPTS = ("{} plays the", "The capital of {} is", "{} was born in the", "A {} in the capital of")
OBJECTS = ("piano", "Paris", "Tokyo", "guitar", "Rome", "language")


def candidates() -> list[Edit]:
    names = [f"{a}{b}" for a in ("Ad", "Be", "Cy", "De", "Ev", "Fa", "Go") for b in "aeiouy"]
    return [
        Edit(
            case_id=str(number),
            prompt=PROMPTS[number % 4],
            subject=f"{name} {name[::-1]}",
            target_new=OBJECTS[number % len(OBJECTS)],
        )
        for number, name in enumerate(names[:POOL])
    ]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small to share out
    directory = tmp_path_factory.mktemp("asking")
    model = load_model(build_tiny_model("llama", directory / "model"))
    values = build_federation(3).plan.model_dump()
    values["editing"]["layers"] = (
        {"index": LAYER, "inputs": D_IN, "outputs": D_MODEL, "mapped": D_IN},
    )
    values["editing"]["context_templates"] = ("{}",)
    values["editing"]["covariance_weight"] = 1.0
    plan = Plan.model_validate(values)
    generator = torch.Generator().manual_seed(5)
    windows = torch.randint(2, VOCABULARY, (64, 32), generator=generator)
    maps = key_maps(plan, second_moments(model, windows, [LAYER], provenance={}))
    edits = candidates()
    keys = compute_keys(model, edits, LAYER, ("{}",)).numpy()
    exact = Prior({LayerIndex(LAYER): maps[LAYER].map_keys(keys)})
    pieces = Cache(directory / "pieces")
    world = camouflage_world.World(
        model,
        plan,
        maps,
        edits,
        {"exact": exact, "generic": exact},
        {EDITED: camouflage_world.edit_model(model, plan, maps, edits[:EDITED], pieces)},
        "tiny",
    )
    yield scene_of(world, pieces, edited=EDITED, templates=4, seed=3, exact=True)
    torch.set_num_threads(threads)


@pytest.fixture
def model(scene: Scene) -> EditableModel:
    return asking.model_of(scene.prior)


@pytest.fixture
def unedited(scene: Scene) -> RecipientView:
    """An update of the same row space that does nothing."""
    view = scene.recipient
    none = {
        layer: LowRankUpdate(1e-9 * update.left, update.right)
        for layer, update in view.updates.items()
    }
    return RecipientView(view.plan, none)


def figures(claim: Claim, scene: Scene) -> dict[str, float]:
    return {each.name: each.value for each in score(claim, scene.truth)}


def test_a_shared_beginning_changes_no_answer(model: EditableModel) -> None:
    rows = [asking.question(model, f"{{}} plays {word}", "Ada adA") for word in OBJECTS]
    assert rows[0].shared > 1
    alone = asking.all_answers(model, [asking.Row(row.ids) for row in rows])
    torch.testing.assert_close(asking.all_answers(model, rows), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.exp().sum(dim=1), torch.ones(len(rows)))


def test_an_edit_ends_with_its_context(scene: Scene, model: EditableModel) -> None:
    digest = model.weights_digest()
    with asking.edited(model, scene.recipient.updates, scene.prior.maps):
        assert model.weights_digest() != digest
    assert model.weights_digest() == digest


def test_tokens_are_read_where_they_were_found(model: EditableModel) -> None:
    rows = [asking.plain(model, text) for text in ("The capital", "guitar in the", "a")]
    allowed = asking.first_tokens(model, OBJECTS)
    entropy, tokens, values = asking.best_tokens(model, rows, kept=2, allowed=allowed)
    again, read = asking.read_tokens(model, rows, tokens)
    answers = asking.all_answers(model, rows)
    np.testing.assert_allclose(read, values, rtol=1e-5)
    np.testing.assert_allclose(entropy, again, rtol=1e-5)
    np.testing.assert_allclose(values[:, 0], answers[:, allowed].max(dim=1).values, rtol=1e-5)
    assert set(tokens.flatten().tolist()) <= set(allowed.tolist())
    assert asking.continuations(model, rows[:1], 1) == [
        model.tokenizer.decode([int(answers[0].argmax())])
    ]


def test_keys_behind_a_beginning_are_those_of_the_editor(model: EditableModel) -> None:
    before, tails = "The capital of", [(40, 41), (42,), (50, 51, 52)]
    beginning = asking.plain(model, before).ids
    found = asking.keys_behind(model, beginning, tails, layer=LAYER)
    for column, tail in enumerate(tails):
        with (
            torch.inference_mode(),
            capturing_input(
                model.projection(LAYER), torch.tensor([len(beginning) + len(tail) - 1])
            ) as captured,
        ):
            model.forward(torch.tensor([[*beginning, *tail]]))
        np.testing.assert_allclose(found[:, column], captured.values[0].double().numpy(), atol=1e-4)


def test_grey_box_tells_who_was_edited_by_answers_alone(scene: Scene) -> None:
    # Answers of a box whose own ways are known: it says another thing about the edited.
    edited = [scene.prior.subjects[number] for number in range(EDITED)]

    def after(prompts: Sequence[str]) -> LogProbabilities:
        said = scene.grey_box.before(prompts)
        moved = [any(name in prompt for name in edited) for prompt in prompts]
        said[moved] = np.roll(said[moved], 1, axis=1)
        return said

    box = GreyBoxView(scene.recipient.plan, scene.grey_box.before, after)
    found = figures(GreyBox(prompts=PROMPTS[:2]).run(box, scene.prior), scene)
    assert found["recall@n"] == 1.0
    silent = GreyBoxView(scene.recipient.plan, scene.grey_box.before, scene.grey_box.before)
    assert not GreyBox().run(silent, scene.prior).scores.any()


def test_divergences_are_zero_of_the_same_and_log_two_of_the_other() -> None:
    one, other = torch.tensor([[0.0, -80.0], [-80.0, 0.0]]), torch.tensor([[-80.0, 0.0]] * 2)
    np.testing.assert_allclose(
        asking.jensen_shannon(one, other).numpy(), [np.log(2), 0.0], atol=1e-6
    )


def test_prompts_are_found_by_entropy_of_subjects_that_stage_one_finds(
    scene: Scene, model: EditableModel
) -> None:
    assert set(found_subjects(scene.recipient, scene.prior)) == set(range(EDITED))
    claim = PromptEntropy().run(scene.recipient, scene.prior)
    assert (claim.choices, set(claim.guesses)) == (4, set(range(EDITED)))
    before, after = answers_of(scene, model)
    drop = (entropy_of(before) - entropy_of(after)) / entropy_of(after)
    for number, guesses in claim.guesses.items():
        order = np.argsort(-drop[number])
        assert guesses == tuple(scene.prior.prompts[place] for place in order)
    few = PromptEntropy(pairs=8, guesses=1).run(scene.recipient, scene.prior)
    assert [len(few.guesses), *map(len, few.guesses.values())] == [2, 1, 1]


def test_whole_facts_are_ranked_by_what_the_object_gains(
    scene: Scene, model: EditableModel
) -> None:
    claim = FullTriple(guesses=1).run(scene.recipient, scene.prior)
    assert claim.choices == 24
    before, after = answers_of(scene, model)
    firsts = asking.first_tokens(model, scene.prior.objects)
    rise = (after.exp() - before.exp())[:, :, firsts]
    for number, guesses in claim.guesses.items():
        prompt, said = divmod(int(rise[number].argmax()), len(firsts))
        prompts, objects = scene.prior.prompts, scene.prior.objects
        wanted = (scene.prior.subjects[number], prompts[prompt], objects[said])
        assert guesses == (TRIPLE_SEPARATOR.join(wanted),)
    by_entropy = FullTriple(order="entropy", guesses=1).run(scene.recipient, scene.prior)
    prompts_alone = PromptEntropy(guesses=1).run(scene.recipient, scene.prior)
    for number, (guess,) in by_entropy.guesses.items():
        assert guess.split(TRIPLE_SEPARATOR)[1] == prompts_alone.guesses[number][0]


def test_objects_are_written_where_none_are_listed(scene: Scene, model: EditableModel) -> None:
    free = FullTriple().run(scene.recipient, replace(scene.prior, objects=()))
    assert free.choices is None
    _, after = answers_of(scene, model)
    likeliest = {
        model.tokenizer.decode([int(token)]).strip() for token in after.argmax(2).flatten()
    }
    said = {guess.split(TRIPLE_SEPARATOR)[2] for found in free.guesses.values() for guess in found}
    assert any(one and any(text.startswith(one) for text in said) for one in likeliest)


def answers_of(scene: Scene, model: EditableModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers before and after about each edited subject, each prompt asked by itself."""

    def ask() -> torch.Tensor:
        rows = [
            asking.plain(model, prompt.replace("{}", scene.prior.subjects[number]))
            for number in range(EDITED)
            for prompt in scene.prior.prompts
        ]
        found = torch.cat([asking.all_answers(model, [row]) for row in rows])
        return found.reshape(EDITED, len(scene.prior.prompts), -1)

    before = ask()
    with asking.edited(model, scene.recipient.updates, scene.prior.maps):
        return before, ask()


def entropy_of(answers: torch.Tensor) -> np.ndarray:
    return np.asarray(-(answers.exp() * answers).sum(dim=2).numpy())


def test_an_update_that_does_nothing_gives_no_facts(scene: Scene, unedited: RecipientView) -> None:
    claim = FullTriple().run(unedited, scene.prior)
    # Subjects are there still, but which of 24 facts about them is a guess.
    assert figures(claim, scene)["top-1"] < 0.5


def test_residuals_come_out_of_open_sums_and_not_out_of_a_secret_basis(scene: Scene) -> None:
    for source, seen in (("sum", "sum"), ("uploads", "uploads")):
        attack = ResidualRecovery(source=source)  # type: ignore[arg-type]
        found = figures(attack.run(scene.aggregators[seen], scene.prior), scene)  # type: ignore[index]
        assert found["found"] == 1.0
        assert found["cosine"] > 0.999
    hidden = figures(ResidualRecovery().run(scene.aggregators["basis"], scene.prior), scene)
    assert hidden["found"] == 0.0


def test_objects_are_decoded_from_open_sums_and_not_from_a_secret_basis(scene: Scene) -> None:
    attack = ResidualDecoding(prompts=PROMPTS)
    claim = attack.run(scene.aggregators["sum"], scene.prior)
    assert claim.choices == len(OBJECTS)
    assert figures(claim, scene)["top-1"] >= 0.5  # of six objects
    hidden = attack.run(scene.aggregators["basis"], scene.prior)
    assert figures(hidden, scene)["top-1"] < 0.5
    free = attack.run(scene.aggregators["sum"], replace(scene.prior, objects=()))
    assert free.choices == VOCABULARY
    assert figures(free, scene)["top-20"] > 0.3


def test_demixed_keys_need_no_candidates(scene: Scene) -> None:
    nobody = Prior({})
    found = figures(DemixedKeys().run(scene.aggregators["sum"], nobody), scene)
    hidden = figures(DemixedKeys().run(scene.aggregators["basis"], nobody), scene)
    assert found["cosine"] > hidden["cosine"]
    residuals = ResidualRecovery(keys="demixed").run(scene.aggregators["sum"], nobody)
    assert residuals.vectors.shape == (D_MODEL, EDITED)


def test_components_of_an_update_are_the_edit_itself(scene: Scene, model: EditableModel) -> None:
    # Without all of them the model is the one before, as the grey box asks it.
    found = TopSingular(of="update", drop=EDITED).run(scene.recipient, scene.prior).scores
    asked = GreyBox().run(scene.grey_box, scene.prior).scores
    np.testing.assert_allclose(found, asked, atol=1e-5)
    assert found.max() > 0.01
    some = TopSingular(of="update", drop=1).run(scene.recipient, scene.prior).scores
    assert 0 < some.mean() < found.mean()
    unedited_weight = model.weight(LAYER).clone()
    with asking.edited(model, scene.recipient.updates, scene.prior.maps):
        assert not torch.allclose(model.weight(LAYER), unedited_weight, atol=1e-4)
        with without_top(model, scene.recipient, scene.prior, of="update", drop=EDITED):
            torch.testing.assert_close(model.weight(LAYER), unedited_weight, atol=1e-5, rtol=1e-4)


def test_a_loud_edit_goes_with_the_top_of_the_weights(scene: Scene, model: EditableModel) -> None:
    rng = np.random.default_rng(0)
    loud = LowRankUpdate(100 * rng.normal(size=(D_MODEL, 1)), rng.normal(size=(1, D_IN)))
    own = scene.prior.maps[LAYER]
    mapped = LowRankUpdate(loud.left, own.remap_rows(loud.right))
    view = RecipientView(scene.recipient.plan, {LayerIndex(LAYER): mapped})
    before = model.weight(LAYER).clone()
    with (
        asking.edited(model, view.updates, scene.prior.maps),
        without_top(model, view, scene.prior, of="weights", drop=1),
    ):
        left = float((model.weight(LAYER) - before).norm())
    assert left < 0.02 * float(np.linalg.norm(loud.dense()))
    matrix = rng.normal(size=(5, 7))
    np.testing.assert_allclose(matrix + top_components(matrix, 5).dense(), 0, atol=1e-12)


def test_open_vocabulary_finds_a_planted_word(scene: Scene, model: EditableModel) -> None:
    # The key of " capital" behind "The mother tongue of" alone is in the span.
    prior, layer = scene.prior, LayerIndex(LAYER)
    beginning = asking.plain(model, "The mother tongue of").ids
    token = model.tokenizer(" capital")["input_ids"][-1]
    key = prior.maps[LAYER].map_keys(asking.keys_behind(model, beginning, [(token,)], layer=LAYER))
    update = LowRankUpdate(np.ones((D_MODEL, 1)), key.T)
    view = RecipientView(scene.recipient.plan, {layer: update})
    attack = OpenVocabulary(beam=2, width=1, steps=1, vocabulary=VOCABULARY, fronts=10)
    assert attack.run(view, prior).names == ("capital",)
    other = LowRankUpdate(np.ones((D_MODEL, 1)), np.roll(key, 1).T)
    missed = RecipientView(scene.recipient.plan, {layer: other})
    assert attack.run(missed, prior).names != ("capital",)
    names = OpenVocabularySum(beam=4, width=1, steps=1, fronts=10).run(
        scene.aggregators["sum"], prior
    )
    assert 0 < len(names.names) <= EDITED


def test_a_covariance_of_other_text_does_nearly_as_well(scene: Scene, model: EditableModel) -> None:
    text = " ".join(f"{a} of the {b} in a capital plays" for a in OBJECTS for b in OBJECTS) * 4
    own = estimated_maps(model, (LAYER,), text=text, weight=1.0, tokens=2000, window=32)
    keys = compute_keys(model, candidates(), LAYER, ("{}",)).numpy()
    prior = replace(scene.prior, mapped_keys={LayerIndex(LAYER): own[LAYER].map_keys(keys)})
    view = reexpressed(scene.recipient, maps=scene.prior.maps, own=own)
    found = figures(UpdateSpan().run(view, prior), scene)
    assert found["recall@n"] >= 4 / 6  # of forty candidates
    # The update is the same one in the model's coordinates.
    layer = LayerIndex(LAYER)
    np.testing.assert_allclose(
        own[LAYER].unmap_rows(view.updates[layer].right),
        scene.prior.maps[LAYER].unmap_rows(scene.recipient.updates[layer].right),
        atol=1e-9,
    )
    generic = model_prior(model, scene.prior.subjects, templates=("{}",), maps=own)
    assert generic.mapped_keys[LayerIndex(LAYER)].shape == (D_IN, POOL)


@pytest.mark.parametrize(
    ("attack", "seen", "missing", "said"),
    [
        (GreyBox(), "grey_box", "subjects", "no subjects"),
        (PromptEntropy(), "recipient", "model", "public model"),
        (PromptEntropy(), "recipient", "prompts", "ranks prompts"),
        (PromptEntropy(), "recipient", "maps", "no key map"),
        (FullTriple(), "recipient", "mapped_keys", "keys of layer"),
        (TopSingular(), "recipient", "subjects", "no subjects"),
        (OpenVocabulary(), "recipient", "maps", "no key map"),
        (ResidualRecovery(), "sum", "mapped_keys", "keys of layer"),
        (ResidualDecoding(), "sum", "subjects", "no subjects"),
    ],
)
def test_what_an_adversary_lacks_is_named(
    attack: GreyBox, seen: str, missing: str, said: str, scene: Scene
) -> None:
    view = scene.aggregators["sum"] if seen == "sum" else getattr(scene, seen)
    none: object = None if missing == "model" else {} if missing in {"maps", "mapped_keys"} else ()
    with pytest.raises(LackingError, match=re.escape(said)):
        attack.run(view, replace(scene.prior, **{missing: none}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (GreyBox, {"prompts": ()}),
        (PromptEntropy, {"pairs": 0}),
        (FullTriple, {"order": "luck"}),
        (TopSingular, {"of": "biases"}),
        (TopSingular, {"drop": 0}),
        (OpenVocabulary, {"beam": 0}),
        (OpenVocabularySum, {"prompt": "nobody"}),
        (ResidualRecovery, {"keys": "guessed"}),
        (ResidualDecoding, {"guesses": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    make: type[GreyBox], settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"one|neither|holds"):
        make(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "module",
    ["grey_box", "open_vocabulary", "prompt_recovery", "residual_decoding", "top_singular"],
)
def test_a_list_of_attacks_takes_no_torch(module: str) -> None:
    code = f"import sys, collabedit.attacks.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HELD_TO_BOUNDS = "full-triple,grey-box,ica-keys,prompt-entropy,residual,update-span"
"""The others find nothing on this model that could be held to a bound, and take minutes."""


@pytest.mark.slow
def test_attacks_on_the_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.audit import model_attacks_table as table

    threads = torch.get_num_threads()
    try:
        lines: list[str] = []
        found = table.run(
            table.options_of(
                ["--edits", "12", "--pool", "60", "--prompts", "12", "--only", HELD_TO_BOUNDS]
            ),
            lines.append,
        )
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        print("", *lines, sep="\n")  # noqa: T201

    def figure(attack: str, view: str, name: str) -> float:
        (row,) = (each for each in found if (each.attack, each.view) == (attack, view))
        return row.scores[name].value

    assert figure("update-span", "update", "auc") > 0.95
    own = figure("update-span, covariance of 12800 other tokens", "update", "recall@n")
    assert own >= figure("update-span", "update", "recall@n") - 0.1
    assert figure("grey-box", "answers", "auc") > 0.9
    assert figure("prompt-entropy", "update", "top-5") > 0.6
    assert figure("full-triple, by rise", "update", "top-5") > 0.6
    assert figure("residual-recovery", "sum", "cosine") > 0.95
    assert figure("residual-recovery", "sum in a secret basis", "found") == 0.0
    assert figure("residual-decoding", "sum", "top-1") > 0.6
    assert figure("residual-decoding", "sum in a secret basis", "top-1") < 0.2
    assert figure("ica-keys", "sum", "cosine") > 0.9
    assert figure("ica-keys", "sum in a secret basis", "cosine") < 0.2
