"""Small trainings by the real trainers, for the tests beside this file: in this process, or in one that gets killed.

As a program it imports everything once and then forks a child per line of JSON on its stdin, so that a killed training costs
no second start; it answers with the child's exit status.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

SAMPLES, BATCH, ACCUMULATE, EPOCHS = 22, 4, 2, 3       # 6 batches an epoch, the last of 2; 3 optimizer steps, 9 in all
WORDS = [f"w{n}" for n in range(60)]


def words_of(sample: int, salt: int = 0) -> str:
    """A text that differs in words and length."""
    return " ".join(WORDS[(sample * 7 + salt * 13 + place * place) % len(WORDS)] for place in range(3 + (sample + salt) % 5))


def tiny_encoder(folder: Path, dropout: float) -> Path:
    """A BERT of random weights and a tokenizer of WORDS, as from_pretrained wants them."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                            mask_token="[MASK]", model_max_length=32).save_pretrained(folder)
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=dropout,
                         attention_probs_dropout_prob=dropout)).save_pretrained(folder)
    return folder


def options(out: Path, **more: Any) -> dict[str, Any]:
    """Arguments of a quick, quiet training on the CPU."""
    return {"output_dir": str(out), "use_cpu": True, "report_to": [], "disable_tqdm": True, "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATE, "learning_rate": 1e-2,
            "save_strategy": "steps", "save_steps": 2, "logging_strategy": "no", "dataloader_pin_memory": False, **more}


def hf_trainer(out: Path, encoder: Path, dataset: Any = None, dropout: float = 0.1, **more: Any) -> Any:
    """A classifier of WORDS' texts. ``dataset``: instead of a datasets.Dataset with "id", "input_ids", "labels"."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        BertForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    eval_dataset = more.pop("eval_dataset", None)
    if dataset is None:
        dataset = Dataset.from_list(hf_samples(tokenizer))
    set_seed(3)
    model = BertForSequenceClassification.from_pretrained(encoder, hidden_dropout_prob=dropout,
                                                          attention_probs_dropout_prob=dropout)
    return Trainer(model=model, args=TrainingArguments(**options(out, **more)), train_dataset=dataset,
                   eval_dataset=eval_dataset, data_collator=DataCollatorWithPadding(tokenizer))


def hf_samples(tokenizer: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "input_ids": tokenizer(words_of(n))["input_ids"], "labels": n % 2} for n in range(SAMPLES)]


def st_dataset(columns: tuple[str, ...] = ("anchor", "positive"), ids: bool = True) -> Any:
    from datasets import Dataset
    texts = {name: [words_of(n, salt) for n in range(SAMPLES)] for salt, name in enumerate(columns)}
    return Dataset.from_dict({"id": [f"s{n}" for n in range(SAMPLES)], **texts} if ids else texts)


def st_trainer(out: Path, encoder: Path, dataset: Any = None, loss: Any = None, dropout: float = 0.1, **more: Any) -> Any:
    """MultipleNegativesRankingLoss, or ``loss(model)``, over st_dataset()."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import set_seed
    eval_dataset = more.pop("eval_dataset", None)
    set_seed(3)
    body = Transformer(str(encoder), config_kwargs={"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})
    model = SentenceTransformer(modules=[body, Pooling(16), Normalize()], device="cpu")
    return SentenceTransformerTrainer(
        model=model, args=SentenceTransformerTrainingArguments(**options(out, **more)), eval_dataset=eval_dataset,
        train_dataset=st_dataset() if dataset is None else dataset, loss=(loss or MultipleNegativesRankingLoss)(model))


def digest(model: Any) -> str:
    """Of all weights, bit for bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def note_losses(trainer: Any, path: Path) -> None:
    """A line per batch: the optimizer step that it belongs to, and the loss to the last bit."""
    train, place = trainer.training_step, [-1, 0]

    def noted(*args: Any, **kwargs: Any) -> Any:
        loss, step = train(*args, **kwargs), trainer.state.global_step
        place[:] = [step, place[1] + 1 if step == place[0] else 0]
        with path.open("a") as file:
            file.write(f"{step}.{place[1]} {float(loss).hex()}\n")
        return loss
    trainer.training_step = noted


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doom(trainer: Any, where: str, count: int) -> None:
    """SIGKILL this process at the ``count``-th call of the trainer's method ``where`` (or os.fsync): before it, or ("after:")
    behind it."""
    after, name = where.startswith("after:"), where.removeprefix("after:")
    owner = os if name == "fsync" else trainer
    method, calls = getattr(owner, name), [0]

    def doomed(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == count and not after:
            die()
        result = method(*args, **kwargs)
        if calls[0] == count:
            die()
        return result
    setattr(owner, name, doomed)


def train(folder: Path, kind: str, kill: tuple[str, int] | None = None, record: bool = True, more: Any = None) -> str:
    """One attempt at the training of ``folder``: resumed where there is a checkpoint. Gives the weights' digest."""
    from transformers.trainer_utils import get_last_checkpoint

    from zstore.train import Recorder, attach
    torch.set_num_threads(1)
    out = folder / "out"
    trainer = {"hf": hf_trainer, "st": st_trainer}[kind](out, folder.parent / "encoder", **(more or {}))
    note_losses(trainer, folder / "losses.txt")
    last = get_last_checkpoint(str(out)) if out.is_dir() else None
    if record:
        recorder = Recorder(str(folder / "run.zarr"), commit_every_s=0.05)
        attach(trainer, recorder, trainer.model.bert.pooler if kind == "hf" else None)
    if kill is not None:
        doom(trainer, *kill)
    trainer.train(resume_from_checkpoint=last is not None)
    if record:
        recorder.close()
    (folder / "digest.txt").write_text(digest(trainer.model))
    return digest(trainer.model)


def serve() -> None:
    for name in ("zarr", "transformers.trainer", "transformers.models.bert", "datasets", "zstore.writer", "zstore.reader",
                 "zstore.train.hf", "sentence_transformers.sentence_transformer.losses"):
        try:
            import_module(name)
        except ImportError:             # sentence-transformers is not everywhere
            pass
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                sys.stdout = sys.stderr
                train(Path(told.pop("folder")), **told)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
