import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from collabedit.crypto.ckks.parameters import FRESH_NOISE, LEAN, CkksParameters
from collabedit.crypto.ckks.seal import SealContext, seal_context
from collabedit.errors import CryptoError, InputError

SETTING = CkksParameters()
CONTEXT = seal_context(SETTING)
KEY = CONTEXT.generate_key()


def coefficients(phase: np.ndarray, place: int = 0) -> np.ndarray:
    """Centred coefficients of a phase modulo one prime."""
    prime = SETTING.wire_primes[place]
    values = CONTEXT.from_ntt(phase[place][None], prime=place)[0].astype(object)
    centred: np.ndarray = np.where(values > prime // 2, values - prime, values).astype(np.int64)
    return centred


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_transform_evaluates_at_roots_of_unity(place: int) -> None:
    # X^k goes to k-th powers of one root each; constants to themselves.
    prime, degree = SETTING.primes[place], SETTING.ring_degree
    basis = np.zeros((3, degree), np.uint64)
    basis[[0, 1, 2], [0, 1, degree - 1]] = 1
    one, root, last = CONTEXT.to_ntt(basis, prime=place)
    assert set(one.tolist()) == {1}
    assert len(set(root.tolist())) == degree
    for x, power in zip(root.tolist()[:50], last.tolist()[:50], strict=True):
        assert pow(x, degree, prime) == prime - 1
        assert pow(x, degree - 1, prime) == power
    assert (CONTEXT.from_ntt(np.stack([one, root, last]), prime=place) == basis).all()


def test_the_roots_lie_in_the_order_that_attacks_and_conjugation_use() -> None:
    # Points j and n-1-j are inverse to each other: SEAL keeps them in bit-reversed order.
    prime, degree = SETTING.data_prime, SETTING.ring_degree
    basis = np.zeros((2, degree), np.uint64)
    basis[:, 1] = 1
    root = CONTEXT.to_ntt(basis)[0].tolist()
    assert all(root[j] * root[degree - 1 - j] % prime == 1 for j in range(degree))


def test_polynomials_of_zeros_are_transformed_too() -> None:
    zeros = np.zeros((3, SETTING.ring_degree), np.uint64)
    assert not CONTEXT.to_ntt(zeros).any()
    assert not CONTEXT.from_ntt(zeros[:1], prime=1).any()


BINOMIAL = binom(2 * FRESH_NOISE, 0.5).pmf(np.arange(2 * FRESH_NOISE + 1))
"""Of -21..21: the ones among 21 bits less the ones among 21 others."""


def fresh_counts(polynomials: int) -> np.ndarray:
    """How often each error of -21..21 was drawn; a larger one fails."""
    encryptor = CONTEXT.encryptor(KEY)
    counts = np.zeros(len(BINOMIAL), np.int64)
    for _ in range(polynomials):
        errors = CONTEXT.fresh_errors(KEY, encryptor)
        assert np.abs(errors).max() <= FRESH_NOISE
        counts += np.bincount(errors + FRESH_NOISE, minlength=len(BINOMIAL))
    return counts


def is_binomial(counts: np.ndarray) -> bool:
    """Pearson's test; wrong about SEAL's sampler once in a million runs."""
    expected = BINOMIAL * counts.sum()
    middle = expected > 10
    observed = [*counts[middle], counts[~middle].sum()]
    return bool(chisquare(observed, [*expected[middle], expected[~middle].sum()]).pvalue > 1e-6)


def test_fresh_noise_is_the_centred_binomial_of_seal_s_source() -> None:
    assert is_binomial(fresh_counts(100))


def test_the_other_sampler_of_seal_would_be_noticed() -> None:
    # SEAL_USE_GAUSSIAN_NOISE: cut at 19.2, and cast to an integer, which cuts towards zero.
    normal = np.random.default_rng(1).normal(scale=3.2, size=100 * SETTING.ring_degree)
    normal = normal[np.abs(normal) <= 19.2]
    for drawn in (normal.astype(np.int64), np.rint(normal).astype(np.int64)):
        assert not is_binomial(np.bincount(drawn + FRESH_NOISE, minlength=len(BINOMIAL)))
    # And the counts of the right one pass.
    right = np.random.default_rng(2).binomial(2 * FRESH_NOISE, 0.5, 100 * SETTING.ring_degree)
    assert is_binomial(np.bincount(right, minlength=len(BINOMIAL)))


@pytest.mark.slow
def test_ten_million_errors_have_the_moments_of_the_binomial() -> None:
    counts = fresh_counts(1250)
    assert is_binomial(counts)
    total, errors = int(counts.sum()), np.arange(-FRESH_NOISE, FRESH_NOISE + 1)
    variance = float((counts * errors**2).sum() / total)
    kurtosis = float((counts * errors**4).sum() / total / variance**2)
    largest = int(np.abs(errors[counts > 0]).max())
    print(  # noqa: T201  the figures of LIMITATIONS
        f"{total} errors: variance {variance:.4f}, kurtosis {kurtosis:.4f}, largest {largest}"
    )
    # Five standard errors. A rounded normal of 3.2 has 10.32 and 3, a cut one 8.00 and 3.56.
    assert abs(variance - 10.5) < 5 * 10.5 * np.sqrt((2 - 2 / 42) / total)
    assert abs(kurtosis - (3 - 2 / 42)) < 5 * np.sqrt(24 / total)


@pytest.mark.parametrize("factor", [0, 8])
def test_a_seal_with_other_noise_is_refused(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SealContext.fresh_errors
    monkeypatch.setattr(SealContext, "fresh_errors", lambda *of: factor * honest(*of))
    with pytest.raises(InputError, match="other noise"):
        SealContext(LEAN)


def test_noise_under_the_public_key_is_within_its_bound() -> None:
    public = CONTEXT.load_public(CONTEXT.generate_public(KEY))
    encryptor = CONTEXT.encryptor(public)
    largest = 0
    for _ in range(20):
        error = coefficients(CONTEXT.phase(KEY, *CONTEXT.encrypt_zero_public(encryptor)))
        largest = max(largest, int(np.abs(error).max()))
    assert FRESH_NOISE < largest <= SETTING.fresh_noise(public_key=True)


def test_errors_are_one_integer_modulo_all_primes() -> None:
    zero, seed = CONTEXT.encrypt_zero(CONTEXT.encryptor(KEY))
    phase = CONTEXT.phase_of_seeds(KEY, zero, [seed])
    assert (coefficients(phase, 0) == coefficients(phase, 1)).all()


def test_a_seed_stands_for_the_second_polynomial() -> None:
    zero, seed = CONTEXT.encrypt_zero(CONTEXT.encryptor(KEY))
    second = CONTEXT.expand_seed(seed)
    assert (second == CONTEXT.expand_seed(seed)).all()
    assert (second != CONTEXT.expand_seed(bytes(64))).any()
    for place, prime in enumerate(SETTING.wire_primes):
        assert int(second[place].max()) < prime
    assert (CONTEXT.phase(KEY, zero, second) == CONTEXT.phase_of_seeds(KEY, zero, [seed])).all()


def test_phases_are_those_of_seal_s_own_sum() -> None:
    encryptor = CONTEXT.encryptor(KEY)
    pairs = [CONTEXT.encrypt_zero(encryptor) for _ in range(3)]
    total = pairs[0][0].astype(object)
    for zero, _ in pairs[1:]:
        total = total + zero.astype(object)
    primes = np.array(SETTING.wire_primes, object)[:, None]
    first = (total % primes).astype(np.uint64)
    phase = CONTEXT.phase_of_seeds(KEY, first, [seed for _, seed in pairs])
    assert np.abs(coefficients(phase)).max() <= 3 * FRESH_NOISE


@pytest.mark.parametrize("place", [0, 1])
def test_seal_refuses_a_residue_that_is_not_below_its_prime(place: int) -> None:
    zero, seed = CONTEXT.encrypt_zero(CONTEXT.encryptor(KEY))
    zero[place, 77] = SETTING.wire_primes[place]
    with pytest.raises(CryptoError, match="not below its prime"):
        CONTEXT.phase_of_seeds(KEY, zero, [seed])
    residues = CONTEXT.save_key(KEY)
    residues[place, 5] = SETTING.primes[place]
    with pytest.raises(CryptoError, match="not below its prime"):
        CONTEXT.load_key(residues)


def test_nothing_stays_in_the_file_and_none_is_on_a_disk() -> None:
    CONTEXT.load_key(CONTEXT.save_key(KEY))
    with pytest.raises(CryptoError):
        CONTEXT.load_key(CONTEXT.save_key(KEY) | np.uint64(1 << 61))
    assert os.fstat(CONTEXT._file).st_size == 0
    assert Path(CONTEXT._path).readlink().name.startswith("memfd:")


def test_threads_take_turns() -> None:
    wrong: list[int] = []
    messages = [
        np.random.default_rng(seed).integers(0, 2**40, (2, 8192), dtype=np.uint64)
        for seed in range(4)
    ]

    def work(place: int) -> None:
        for _ in range(30):
            held = CONTEXT.from_ntt(CONTEXT.to_ntt(messages[place]))
            if (held != messages[place]).any():
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_system_without_anonymous_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(InputError, match="never on a disk"):
        SealContext(LEAN)


def test_a_seal_with_other_primes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        @staticmethod
        def Create(degree: int, bits: list[int]) -> list[object]:  # noqa: N802
            return []

    monkeypatch.setattr("tenseal.sealapi.CoeffModulus", Other)
    with pytest.raises(InputError, match="other primes"):
        SealContext(LEAN)


def test_a_system_without_proc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(InputError, match="needs /proc"):
        SealContext(LEAN)


def test_a_forked_process_has_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seal_context(LEAN) is seal_context(LEAN)
    mine = seal_context(LEAN)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert seal_context(LEAN) is not mine
    assert seal_context(LEAN)._file != mine._file


def test_contexts_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="rebuilt"):
        pickle.dumps(CONTEXT)
