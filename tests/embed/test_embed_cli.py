"""``zstore embed`` as typed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shared import documents, held, made, rows, write

import zstore
from zstore.cli.main import main
from zstore.embed.ledger import Ledger

ROOT = Path(__file__).parents[2]
SLOW = """
    import sys, time
    from zstore.cli.main import main
    from zstore.embed.hashing import HashingEncoder

    encode, done = HashingEncoder.encode, []

    def slow(self, tokens):
        done.append(time.sleep(0.01))
        if len(done) == WAIT_AT:
            sys.stdin.readline()
        return encode(self, tokens)

    HashingEncoder.encode = slow
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 300 documents."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "docs.jsonl", documents(300))
    return tmp_path


def ran(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(shlex.split(line)[1:])
    out, err = capsys.readouterr()
    return code, out, err


def test_as_typed(here: Path) -> None:
    line = "-m zstore.cli.main embed docs.jsonl --to docs.zarr --model hash:384"
    done = subprocess.run([sys.executable, *shlex.split(line)], cwd=here, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stderr == ""
    assert "297 embedded, 3 copied" in done.stdout
    assert held(here / "docs.zarr") == made(documents(300), 384)


def test_json_says_what_the_report_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "zstore embed docs.jsonl --to docs.zarr --model hash:32 --json --progress --metrics m.jsonl"
    code, out, err = ran(line, capsys)
    facts = json.loads(out)
    assert code == 0 and (facts["seen"], facts["embedded"], facts["copied"], facts["interrupted"]) == (300, 297, 3, False)
    assert "300/300 docs" in err
    assert json.loads((here / "m.jsonl").read_text().splitlines()[-1])["done"] == 300
    code, out, err = ran(line, capsys)
    assert json.loads(out)["skipped"] == 300


def test_one_bad_file_ends_well_and_says_where_to_look(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(300)
    bad = {3: "", 30: " ", 100: "\n", 299: "half \ud800"}
    write(here / "docs.jsonl", [(key, bad.get(n, text)) for n, (key, text) in enumerate(docs)])
    code, out, _ = ran("zstore embed docs.jsonl --to docs.zarr --model hash:32", capsys)
    assert code == 0 and "4 failed" in out and "zstore failures ls docs.zarr" in out
    assert len(Ledger("docs.zarr").all()) == 4
    write(here / "docs.jsonl", docs)
    code, out, _ = ran("zstore failures retry docs.zarr", capsys)
    assert code == 0 and Ledger("docs.zarr").all() == []
    assert held("docs.zarr") == made(docs)


def test_a_dry_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran("zstore embed docs.jsonl --to docs.zarr --model hash:32 --dry-run", capsys)
    assert code == 0 and "300 items" in out and "docs/s" in out and "MiB" in out
    code, out, _ = ran("zstore embed docs.jsonl --to docs.zarr --model hash:32 --dry-run --json", capsys)
    assert json.loads(out)["total"] == 300 and [path.name for path in here.iterdir()] == ["docs.jsonl"]


@pytest.mark.parametrize(("words", "code", "said"), [
    ("absent.jsonl --model hash:32", 3, "absent.jsonl"),
    ("docs.jsonl --model no-such-model", 3, "no-such-model"),
    ("docs.jsonl --model hash:32 --id nope", 2, "nope"),
    ("docs.jsonl --model hash:48", 2, "hash:32"),
    ("docs.jsonl --model hash:32 --keep title", 2, "title"),
    ("docs.jsonl --model hash:32 --workers 0", 2, "--workers"),
    ("docs.jsonl --model hash:32 --prune --limit 3", 2, "limit"),
    ("docs.jsonl --model hash:32 --window 0", 2, "window"),
    ("bad.jsonl --model hash:32 --on-bad fail", 1, "empty"),
    ("bad.jsonl --model hash:32 --max-failures 1", 1, "allowed"),
    ("docs.jsonl --model hash:32 --max-failures -1", 2, "--max-failures"),
    ("docs.jsonl --model hash:32 --device cuda", 2, "device"),
    ("docs.jsonl --model hash:48 --dry-run", 2, "hash:32"),
    ("empty.jsonl --model hash:32 --dry-run", 2, "the source holds no items"),
])
def test_mistakes_are_one_sentence_and_a_code(words: str, code: int, said: str, here: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    if "no-such-model" in words:
        pytest.importorskip("sentence_transformers")
    assert main(shlex.split("embed docs.jsonl --to docs.zarr --model hash:32")) == 0
    write(here / "bad.jsonl", [("x", ""), ("y", "")])
    write(here / "empty.jsonl", [])
    capsys.readouterr()
    found, out, err = ran(f"zstore embed {words} --to docs.zarr", capsys)
    assert found == code and out == ""
    assert said in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert held(here / "docs.zarr") == made(documents(300))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_commits_and_prints_the_command_that_continues(number: int, here: Path, children: Any,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(3000)
    write(here / "docs.jsonl", docs)
    words = shlex.split("embed docs.jsonl --to docs.zarr --model hash:32 --commit-s 0.2 --window 64 --budget 512")
    child = children.start(SLOW.replace("WAIT_AT", "-1"), *words, cwd=here)
    while rows("docs.zarr") == 0:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.02)
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err
    line = err.strip().splitlines()[-1].strip()
    assert shlex.split(line) == ["zstore", *words]
    there = rows("docs.zarr")
    assert 0 < there < 3000
    code, out, _ = ran(f"{line} --json", capsys)
    assert code == 0 and json.loads(out)["skipped"] == there
    assert held("docs.zarr") == made(docs)


def test_a_second_process_is_refused_with_the_code_of_a_conflict(here: Path, children: Any,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "docs.jsonl", documents(2000))
    words = shlex.split("embed docs.jsonl --to docs.zarr --model hash:32 --commit-s 0.2 --window 64 --budget 512")
    child = children.start(SLOW.replace("WAIT_AT", "20"), *words, cwd=here)
    while rows("docs.zarr") == 0:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.02)
    code, _, err = ran(shlex.join(["zstore", *words]), capsys)
    assert code == 5 and f"pid {child.pid}" in err and "or pass --takeover" in err and "takeover=True" not in err
    children.tell(child)
    assert child.wait(60) == 0
    assert held("docs.zarr") == made(documents(2000))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("pretty.jsonl", '{ "id": "a",\n  "text": "x"\n}\n' * 5, "not one of the 15 items could be embedded; the first failure is "
     "pretty.jsonl line 1: the line is not JSON"),
    ("text-ids.csv", "id,text\na,one\nb,two\n", "not one of the 2 items could be embedded; the first failure is "
     "text-ids.csv line 2 (id 'a'): "),
    ("latin.csv", "id,text\n1,h\xfctte\n", "the one item could not be embedded; the first failure is latin.csv line 2: the "
     "line is not UTF-8: byte 0xfc at 3; if the file is Latin-1, iconv -f LATIN1 -t UTF-8 converts it")])
@pytest.mark.parametrize("on_bad", ["quarantine", "skip"])
def test_nothing_at_all_is_no_success(name: str, content: str, said: str, on_bad: str, here: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "ints.jsonl", [(1, "one")])
    assert main(shlex.split("embed ints.jsonl --to docs.zarr --model hash:32")) == 0
    (here / name).write_bytes(content.encode("latin-1"))
    capsys.readouterr()
    code, out, err = ran(f"zstore embed {name} --to docs.zarr --model hash:32 --on-bad {on_bad}", capsys)
    assert code == 1 and "0 embedded" in out and said in err
    code, out, _ = ran(f"zstore embed {name} ints.jsonl --to docs.zarr --model hash:32 --json --on-bad {on_bad}", capsys)
    assert code == 0 and name in json.loads(out)["first_failure"]


def test_an_empty_source_is_said_to_be_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "none.jsonl", [])
    code, _, err = ran("zstore embed none.jsonl --to docs.zarr --model hash:32", capsys)
    assert code == 0 and "the source holds no items" in err


def test_a_store_in_its_own_source(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "tx").mkdir()
    (here / "tx/a.txt").write_text("one")
    (here / "tx/b.txt").write_text(" ")
    for line in ("tx --to tx/st.zarr", "tx --to tx/st.zarr", "tx --to ./tx/../tx/st.zarr/", "tx --to tx/other.zarr"):
        code, out, _ = ran(f"zstore embed {line} --model hash:32 --json", capsys)
        assert code == 0 and (json.loads(out)["seen"], json.loads(out)["absent"]) == (2, 0)
    assert (here / "tx/st.zarr.failures.jsonl").exists() and set(held("tx/st.zarr")) == {"a.txt"}
    (here / "tx/b.txt").write_text("two")
    code, out, _ = ran("zstore failures retry tx/st.zarr", capsys)
    assert code == 0 and set(held("tx/st.zarr")) == {"a.txt", "b.txt"}


def test_several_sources(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(300)
    write(here / "one.jsonl", docs[:100])
    write(here / "two.jsonl", [*docs[100:], ("bad", "")])
    code, out, _ = ran("zstore embed one.jsonl ./two.jsonl --to docs.zarr --model hash:32 --json --progress", capsys)
    assert code == 0 and json.loads(out)["seen"] == 301 and held("docs.zarr") == made(docs)
    write(here / "two.jsonl", [*docs[100:], ("bad", "good")])
    code, _, _ = ran("zstore failures retry docs.zarr", capsys)
    assert code == 0 and held("docs.zarr") == made([*docs, ("bad", "good")])


def test_kept_names_with_blanks_between(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "docs.jsonl", [{"id": "a", "text": "x", "title": "T", "year": 1990}])
    code, _, _ = ran("zstore embed docs.jsonl --to docs.zarr --model hash:32 --keep 'title, year ,'", capsys)
    assert code == 0
    with zstore.Reader("docs.zarr") as reader:
        assert reader.field("year").tolist() == [1990]


def test_a_dry_run_does_what_it_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(300)
    write(here / "part.jsonl", docs[:200])
    assert ran("zstore embed part.jsonl --to docs.zarr --model hash:32", capsys)[0] == 0
    line = "zstore embed docs.jsonl --to docs.zarr --model hash:32 --dry-run --json"
    facts = json.loads(ran(line, capsys)[1])
    assert (facts["total"], facts["there"], facts["todo"], facts["sample"]) == (300, 200, 99, 99)
    facts = json.loads(ran(f"{line} --limit 250 --budget 777", capsys)[1])
    assert (facts["total"], facts["there"], facts["todo"]) == (250, 200, 50) and "777" in facts["budgets"]
    code, out, _ = ran("zstore embed part.jsonl --to docs.zarr --model hash:32 --dry-run --workers 2", capsys)
    assert code == 0 and "200 items, about 0 to embed" in out and "each has a GPU" in out


def test_a_second_interrupt_prints_the_command_too(here: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed.hashing import HashingEncoder
    from zstore.embed.journal import Journal

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(HashingEncoder, "encode", interrupted)
    monkeypatch.setattr(Journal, "flush", interrupted)
    line = "zstore embed docs.jsonl --to docs.zarr --model hash:32"
    code, out, err = ran(line, capsys)
    assert code == 130 and err.strip().splitlines()[-1].strip() == line
    monkeypatch.setattr("zstore.embed.run.load", interrupted)
    code, out, err = ran(line, capsys)
    assert code == 130 and out == "" and err == "zstore: interrupted before anything was embedded\n"
    monkeypatch.setattr("zstore.cli.main._load", interrupted)
    code, out, err = ran(line, capsys)
    assert code == 130 and out == "" and err == "zstore: interrupted\n"


def test_stdin_needs_the_same_input_to_continue(here: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed.hashing import HashingEncoder

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(HashingEncoder, "encode", interrupted)
    with open("docs.jsonl") as file:
        monkeypatch.setattr("sys.stdin", file)
        code, _, err = ran("zstore embed - --to docs.zarr --model hash:32", capsys)
    assert code == 130 and "with the same input" in err
    assert err.splitlines()[-1].strip() == "... | zstore embed - --to docs.zarr --model hash:32"


def test_words_of_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "docs.jsonl", [("a", "one")])
    code, out, _ = ran("zstore embed docs.jsonl --to docs.zarr --model hash:32", capsys)
    assert code == 0 and "1 item in" in out and "1 items" not in out and "1 commits" not in out
    assert "of embed, which knows a text by it" in ran("zstore info docs.zarr", capsys)[1]


def test_the_command_shows_no_secret(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed.hashing import HashingEncoder

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(HashingEncoder, "encode", interrupted)
    line = "zstore embed docs.jsonl --to docs.zarr --model hash:32 --json --source-option password=hunter2"
    code, out, err = ran(line, capsys)
    assert code == 130 and json.loads(out)["interrupted"] is True and "password" in json.loads(out)["continue"]
    assert "hunter2" not in out + err


def test_stdin_csv_and_kept_columns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "docs.csv").write_text("key,body,title\n1,some text,One\n2,other text,Two\n")
    code, _, _ = ran("zstore embed docs.csv --to csv.zarr --model hash:32 --id key --text body --keep title", capsys)
    assert code == 0
    with zstore.Reader("csv.zarr") as reader:
        assert dict(zip(reader.ids.tolist(), reader.field("title").tolist(), strict=True)) == {"1": "One", "2": "Two"}
    done = subprocess.run([sys.executable, "-m", "zstore.cli.main", "embed", "-", "--to", "in.zarr", "--model", "hash:32"],
                          cwd=here, input='{"id": 1, "text": "from a pipe"}\n', text=True, capture_output=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and held("in.zarr") == made([(1, "from a pipe")])
