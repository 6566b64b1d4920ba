from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from collabedit.errors import InputError, NumericError
from collabedit.party.editing.corpus import (
    PYTHON_DOCS,
    read_source,
    sample_windows,
    token_windows,
)
from collabedit.party.editing.covariance import Covariance, load_covariance, second_moments
from collabedit.party.editing.hooks import capturing_input
from collabedit.party.editing.model import EditableModel
from tests.support.tiny_models import MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

LAYERS = (1, 3)


def windows(count: int = 5, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, 290, (count, width), generator=generator)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_second_moments_equal_one_token_at_a_time(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    covariance = second_moments(model, windows(), LAYERS, provenance={}, batch_size=2)
    assert covariance.tokens == 60
    for layer in LAYERS:
        naive = np.zeros((model.d_in(layer), model.d_in(layer)))
        for row in windows():
            with torch.no_grad(), capturing_input(model.projection(layer)) as captured:
                model.forward(row[None])
            for key in captured.values[0].double().numpy():
                naive += np.outer(key, key)
        np.testing.assert_allclose(covariance.matrices[layer], naive / 60, rtol=1e-5, atol=1e-8)
        assert np.array_equal(covariance.matrices[layer], covariance.matrices[layer].T)


def test_float32_keys_are_accumulated_in_float64(load_tiny: LoadTiny) -> None:
    model = load_tiny("llama", "float32")
    matrix = second_moments(model, windows(400, 20), (2,), provenance={}).matrices[2]
    assert matrix.dtype == np.float64
    assert np.linalg.eigvalsh(matrix)[0] > 0


def test_progress_and_provenance(model: EditableModel) -> None:
    seen: list[tuple[int, int]] = []
    covariance = second_moments(
        model,
        windows(),
        LAYERS,
        provenance={"source": "noise"},
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert covariance.provenance == {
        "source": "noise",
        "window": "12",
        "dtype": "float64",
        "weights": model.weights_digest(),
        "tokenizer": model.tokenizer_digest(),
    }


def test_nothing_to_average_is_refused(model: EditableModel) -> None:
    with pytest.raises(InputError):
        second_moments(model, windows()[:0], LAYERS, provenance={})


def test_keys_that_are_not_finite_are_refused(model: EditableModel) -> None:
    with torch.no_grad():
        model.weight(0).fill_(torch.inf)
    with pytest.raises(NumericError, match="not finite"):
        second_moments(model, windows(), LAYERS, provenance={})


def test_a_file_comes_back_with_its_digest(model: EditableModel, tmp_path: Path) -> None:
    made = second_moments(model, windows(), LAYERS, provenance={"source": "noise"})
    path = tmp_path / "covariance.safetensors"
    made.save(path)
    loaded = load_covariance(path, digest=made.digest())
    assert loaded.digest() == made.digest()
    assert list(loaded.matrices) == list(LAYERS)
    for layer in LAYERS:
        assert np.array_equal(loaded.matrices[layer], made.matrices[layer])
    with pytest.raises(InputError, match="the plan states 00"):
        load_covariance(path, digest="00")


def test_digest_covers_every_part() -> None:
    matrix = np.eye(2)
    base = Covariance({1: matrix}, 5, {"source": "a"})
    others = [
        Covariance({2: matrix}, 5, {"source": "a"}),
        Covariance({1: matrix, 2: matrix}, 5, {"source": "a"}),
        Covariance({1: matrix * (1 + 1e-15)}, 5, {"source": "a"}),
        Covariance({1: matrix}, 6, {"source": "a"}),
        Covariance({1: matrix}, 5, {"source": "b"}),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 6
    ordered = Covariance({2: matrix, 1: matrix}, 5, {})
    assert ordered.digest() == Covariance({1: matrix, 2: matrix}, 5, {}).digest()


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "covariance.safetensors"
    Covariance({1: np.eye(2)}, 5, {}).save(path)
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    save_file({"1": torch.zeros(2, 2, dtype=torch.float64)}, path, metadata=metadata)
    with pytest.raises(InputError, match="is damaged"):
        load_covariance(path)


TEXT = "The capital of France is Paris.\nThe piano is in Rome.\n" * 20


def test_windows_cut_a_text_without_losing_a_token(model: EditableModel) -> None:
    cut = token_windows(model, TEXT, window=16)
    front = len(model.prefix_ids)
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert cut.shape == (len(ids) // (16 - front), 16)
    assert cut[:, :front].tolist() == [list(model.prefix_ids)] * len(cut)
    flat = cut[:, front:].flatten().tolist()
    assert flat == ids[: len(flat)]


def test_windows_can_be_limited(model: EditableModel) -> None:
    assert token_windows(model, TEXT, window=16, max_tokens=40).shape == (2, 16)
    assert token_windows(model, TEXT, window=16, max_tokens=5).shape == (1, 16)
    short = token_windows(model, "The capital", window=100)
    assert short.shape == (1, len(model.prefix_ids) + len(model.tokenizer.tokenize("The capital")))


@pytest.mark.parametrize("window", [0, 129])
def test_windows_fit_the_model(model: EditableModel, window: int) -> None:
    with pytest.raises(InputError, match="a window of"):
        token_windows(model, TEXT, window=window)


def test_self_written_windows_follow_their_seed(model: EditableModel) -> None:
    def sample(seed: int, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_windows(model, window=10, count=9, generator=generator, batch_size=batch_size)

    first = sample(1, 4)
    assert first.shape == (9, 10)
    assert torch.equal(first, sample(1, 4))
    assert not torch.equal(first, sample(2, 4))
    assert first[:, 0].eq(0).all()  # BOS in front, added or not by the tokenizer
    assert len(set(first[:, 1].tolist())) > 1


def test_self_written_text_follows_the_model_s_distribution(model: EditableModel) -> None:
    # The cached steps must see what a whole pass sees: the samples are likely under the model.
    generator = torch.Generator().manual_seed(1)
    sampled = sample_windows(model, window=40, count=16, generator=generator)
    shuffled = sampled[torch.randperm(16, generator=generator)]
    with torch.no_grad():
        log_p = model.logits(model.forward(sampled)).log_softmax(dim=-1)[:, 5:-1]
    own = log_p.gather(2, sampled[:, 6:, None]).mean()
    others = log_p.gather(2, shuffled[:, 6:, None]).mean()
    assert own > others


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.md").write_text("ignored")
    text, provenance = read_source(str(tmp_path))
    assert text == "first\n\nsecond"
    assert provenance["source"] == tmp_path.name
    assert len(provenance["sha256"]) == 64
    assert read_source(str(tmp_path / "b.txt"))[0] == "second"
    docs, provenance = read_source(PYTHON_DOCS)
    assert len(docs) > 100_000
    assert provenance["source"] == PYTHON_DOCS


def test_sources_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_source(str(tmp_path / "none"))
    with pytest.raises(InputError, match="holds no text"):
        read_source(str(tmp_path))
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        read_source(str(tmp_path / "latin.txt"))
