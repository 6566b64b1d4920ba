"""The numerical range of a matrix, also where LAPACK gives up on its decomposition."""

from typing import Any

import numpy as np
import pytest

from collabedit.attacks.span import range_basis


def test_a_decomposition_that_fails_is_done_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 12))
    expected, real, failed = range_basis(matrix, noise=0.0), np.linalg.svd, []

    def moody(given: Any, **options: Any) -> Any:  # noqa: ANN401  numpy's own
        if given.shape == matrix.shape:
            failed.append(given)
            raise np.linalg.LinAlgError("SVD did not converge")
        return real(given, **options)

    monkeypatch.setattr("numpy.linalg.svd", moody)
    found = range_basis(matrix, noise=0.0)
    assert len(failed) == 1
    assert found.shape == expected.shape == (40, 5)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-12)
