"""Real texts by the hundred thousand: the entries of the dictionaries that Debian packages for dictd.

    wn       WordNet: 147,306 entries, 53 tokens on average
    gcide    Webster: 126,240 entries, 80 tokens
    foldoc   computing: 12,014 entries, 101 tokens

Taken from an installed ``dict-NAME``, else from the package, fetched once with apt-get and kept in the benchmarks' cache.
"""

from __future__ import annotations

import gzip
import shutil
import string
import subprocess
import tempfile
from pathlib import Path

from benchmarks.embeddings import cache_folder

NAMES = ("wn", "gcide", "foldoc")
SYSTEM = Path("/usr/share/dictd")
_DIGITS = {letter: value for value, letter in enumerate(string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/")}


def entries(name: str) -> list[tuple[str, str]]:
    """(id, text) of each entry, in the dictionary's order; ids are the headword and where the entry stands."""
    index, texts = _files(name)
    data = gzip.decompress(texts.read_bytes())
    found: dict[tuple[int, int], str] = {}          # several headwords may name one entry
    for line in index.read_text("utf-8").splitlines():
        word, start, size = line.split("\t")[:3]
        if not word.startswith("00"):               # about the dictionary itself
            found.setdefault((_number(start), _number(size)), word)
    return [(f"{word}@{start}", " ".join(data[start:start + size].decode("utf-8", "replace").split()))
            for (start, size), word in sorted(found.items())]


def _number(digits: str) -> int:
    """dictd writes numbers in base 64."""
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _files(name: str) -> tuple[Path, Path]:
    for folder in (SYSTEM, cache_folder() / "dictd"):
        found = folder / f"{name}.index", folder / f"{name}.dict.dz"
        if all(path.exists() for path in found):
            return found
    _fetch(name)
    return found


def _fetch(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="dictionary-") as folder:
        try:
            subprocess.run(["apt-get", "download", f"dict-{name}"], cwd=folder, check=True, capture_output=True, timeout=300)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, "unpacked"], cwd=folder, check=True, timeout=300)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise SystemExit(f"the texts are those of Debian's package dict-{name}, which can't be fetched here ({error}); "
                             f"install it, or name a file of your own: --file docs.jsonl") from error
        kept = cache_folder() / "dictd"
        kept.mkdir(parents=True, exist_ok=True)
        for path in (Path(folder) / "unpacked/usr/share/dictd").iterdir():
            shutil.copy(path, kept / path.name)
