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
])
def test_mistakes_are_one_sentence_and_a_code(words: str, code: int, said: str, here: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    if "no-such-model" in words:
        pytest.importorskip("sentence_transformers")
    assert main(shlex.split("embed docs.jsonl --to docs.zarr --model hash:32")) == 0
    write(here / "bad.jsonl", [("x", ""), ("y", "")])
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
    assert code == 5 and f"pid {child.pid}" in err
    children.tell(child)
    assert child.wait(60) == 0
    assert held("docs.zarr") == made(documents(2000))


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
