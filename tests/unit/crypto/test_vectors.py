import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "vectors"
NAMES = {
    "kdf",
    "agreement",
    "sealed",
    "signing",
    "keystream",
    "shamir",
    "fixedpoint",
    "masking",
}


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, VECTORS / script, folder], capture_output=True, text=True, check=False
    )


def test_the_code_still_produces_every_committed_vector(tmp_path: Path) -> None:
    made = run("generate_crypto.py", tmp_path)
    assert made.returncode == 0, made.stderr
    fresh = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (VECTORS / "crypto").iterdir()}
    assert set(fresh) == {f"{name}.json" for name in NAMES}
    assert fresh == committed


def test_an_independent_implementation_agrees() -> None:
    verified = run("verify_crypto.py", VECTORS / "crypto")
    assert verified.returncode == 0, verified.stderr
    cases = sum(len(cases_of(name)) for name in NAMES)
    assert verified.stdout == f"{cases} cases agree\n"


def test_the_independent_implementation_imports_nothing_of_ours() -> None:
    tree = ast.parse((VECTORS / "verify_crypto.py").read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {name.split(".")[0] for name in imported} & {"collabedit", "tests", "numpy"} == set()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_file_says_both_what_is_made_and_what_is_refused(name: str) -> None:
    assert any("output" in case for case in cases_of(name))
    assert any("error" in case for case in cases_of(name))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_verifier_notices_any_changed_outcome(name: str, tmp_path: Path) -> None:
    # Turn every outcome of one file: each case must be reported.
    shutil.copy(VECTORS / "crypto" / f"{name}.json", tmp_path)
    cases = cases_of(name)
    for case in cases:
        case["output"] = {"unexpected": True}
        case.pop("error", None)
    (tmp_path / f"{name}.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")
    verified = run("verify_crypto.py", tmp_path)
    assert verified.returncode == 1
    assert len(verified.stderr.splitlines()) == len(cases)


def test_an_empty_folder_is_not_agreement(tmp_path: Path) -> None:
    assert run("verify_crypto.py", tmp_path).returncode == 1


def cases_of(name: str) -> list[dict[str, object]]:
    content = json.loads((VECTORS / "crypto" / f"{name}.json").read_text(encoding="utf-8"))
    cases: list[dict[str, object]] = content["cases"]
    return cases
