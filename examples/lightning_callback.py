"""Record a Lightning training of handwritten digits, stop it in the middle of an epoch, and resume it exactly.

    pip install 'zstore[lightning]' scikit-learn
    python examples/lightning_callback.py runs/
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import zstore
from zstore.train import ResumableSampler
from zstore.train.lightning import ExactResume, PredictionWriter, RecorderCallback

EPOCHS, BATCH = 3, 64


class Digits(Dataset):      # type: ignore[type-arg]
    """scikit-learn's 1,797 images; a sample says which one it is."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.data / 16, dtype=torch.float32)
        self.labels = torch.tensor(digits.target)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"id": f"digit-{number:04d}", "image": self.images[number], "label": self.labels[number]}


class Classifier(pl.LightningModule):
    """Knows nothing of any recording."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 16))
        self.head = nn.Linear(16, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.head(self.encoder(batch["image"])), batch["label"])

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.encoder(batch["image"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def fit(folder: Path, data: Digits, *, steps: int = -1, resume: bool = False) -> pl.Trainer:
    """Train, to the end or for so many steps; a checkpoint every 10 steps carries the store's mark."""
    sampler = ResumableSampler(data, seed=1)
    recorder = RecorderCallback(folder / "train.zarr", "encoder", ids="id", fields={"label": "label"}, expected=data_ids(data))
    saves = ModelCheckpoint(folder / "checkpoints", filename="last", every_n_train_steps=10, enable_version_counter=False)
    trainer = pl.Trainer(max_epochs=EPOCHS, max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, callbacks=[recorder, ExactResume(sampler), saves])
    loader = DataLoader(data, batch_size=BATCH, sampler=sampler)
    trainer.fit(Classifier(), loader, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    for found in recorder.coverage.values():
        print(found)
    return trainer


def data_ids(data: Digits) -> list[str]:
    return [f"digit-{number:04d}" for number in range(len(data))]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(7)
    data = Digits()
    fit(folder, data, steps=45)                         # stops in the second epoch
    trainer = fit(folder, data, resume=True)            # goes on behind step 40: the store goes back to there, too
    with zstore.Reader(folder / "train.zarr") as run:
        print(f"{len(run)} rows of {len(data)} digits in {len(run.epochs)} epochs")
        paths = run.get(data_ids(data), epoch=run.epochs)           # (1797, 3, 16): each digit's way through training
        print(f"mean step of a digit between epochs: {np.linalg.norm(np.diff(paths, axis=1), axis=2).mean():.2f}")

    trainer.callbacks.append(PredictionWriter(folder / "final.zarr", ids="id"))
    trainer.predict(trainer.lightning_module, DataLoader(data, batch_size=BATCH), return_predictions=False)
    with zstore.Reader(folder / "final.zarr") as final:
        print(f"{len(final)} predictions of the trained model, {final.vectors.shape[1]} numbers each")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
