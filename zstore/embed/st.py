"""A sentence-transformers model as an encoder: tokenized once, given to the model as ids."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np

from zstore._typing import Array
from zstore.embed.callables import out_of_memory
from zstore.errors import MissingExtra

try:
    import sentence_transformers
    import torch
    from transformers.utils import logging

    from zstore.embed.linears import LEAST_ROWS, pack
except ImportError:
    raise MissingExtra("this model needs sentence-transformers: pip install 'zstore[embed]'") from None

_PROMPTS = {"document": ("document", "passage", "corpus"), "query": ("query",)}     # those that encode_document looks for
# Padded tokens of a batch. Measured on two cores: between 1,024 and 3,072 a token costs the same, at 8,192 a fifth more, for
# the caches are too small; fewer pad less. On a GPU it is a guess: memory that runs out halves it.
_CPU, _CPU_THREAD, _GPU = 1536, 768, 65_536
# Of a transformer's config: where it was, who wrote it, what is told elsewhere (the dtype of the weights) or changes nothing.
_NO_MATTER = {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "architectures", "dtype", "torch_dtype",
              "use_cache", "gradient_checkpointing"}
_LETTERS = 12       # of a token, at most, in almost any text: what is beyond max_tokens * 12 is not tokenized


class STEncoder:
    """``SentenceTransformer.encode_document`` (or ``encode_query``), batch by batch: the same vectors to rounding."""

    def __init__(self, model: Any, *, task: str = "document", prompt: str | None = None, dim: int | None = None,
                 dtype: str | None = None, normalize: bool | None = None, device: str | None = None) -> None:
        """``model``: a SentenceTransformer (which is copied), or a folder or a name that is on this machine.

        ``task``: "document" or "query", whose prompt is used if the model has one. ``prompt``: the name of one of the model's
        prompts, else the prompt itself; "" for none. ``dim`` keeps the first dimensions, as truncate_dim does. ``dtype``:
        "float32" or "bfloat16", in which the model computes and the vectors come. ``normalize``: True for length 1, False for
        what comes before the model's own normalisation, None for what the model does. Raises ValueError for a model that
        is not a transformer over text with a fast tokenizer, and for a dtype or dim that it cannot have.
        """
        if task not in _PROMPTS:
            raise ValueError(f"task is {task!r}; it is 'document' or 'query'")
        if dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; a model computes in 'float32' or 'bfloat16'")
        ours = isinstance(model, str)
        if ours:
            with _quiet():
                model = sentence_transformers.SentenceTransformer(model, device=device, local_files_only=True)
        self.dtype = dtype or ("bfloat16" if model.dtype == torch.bfloat16 else "float32")
        self._weights, self._config = _hash_of(model), _hash_of_config(model)
        model = (model if ours else copy.deepcopy(model)).eval().to(device or model.device, getattr(torch, self.dtype))
        self._first, self._rest = _parts(model, normalize)
        self._normalize, self._device = normalize, model.device
        pack(self._first)
        self.budget = max(_CPU, _CPU_THREAD * torch.get_num_threads()) if self._device.type == "cpu" else _GPU
        self.prompt = _prompt(model, task, prompt)
        self._tokens = _Tokens(model, self._first, task, self.prompt)
        self.max_tokens = self._tokens.most
        whole = int(model.get_embedding_dimension())
        if dim is not None and not 1 <= dim <= whole:
            raise ValueError(f"dim is {dim}; the model's vectors have {whole}")
        self.dim = dim or whole

    def provenance(self) -> dict[str, Any]:
        """Weights (before a cast), the transformer's config and the tokenizer by their SHA-256; "versions" is beside what makes
        a vector."""
        pooling = [module.get_config_dict() for module in self._rest if hasattr(module, "get_config_dict")]
        return {"kind": "sentence-transformers", "weights": self._weights, "config": self._config,
                "tokenizer": self._tokens.fingerprint,
                "modules": [type(module).__name__ for module in (self._first, *self._rest)],
                "pooling": json.loads(json.dumps(pooling, default=str)), "prompt": self.prompt, "dim": self.dim,
                "dtype": self.dtype, "normalize": self._normalize, "max_tokens": self.max_tokens,
                "versions": {"sentence_transformers": sentence_transformers.__version__, "torch": str(torch.__version__)}}

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """Of each text (tokens,) int32, with the prompt and the special tokens."""
        return self._tokens.of(texts)

    def encode(self, tokens: Sequence[Any]) -> Array:
        """(n, dim) of ``dtype``; texts of one length go without a mask. Raises MemoryError where torch has none left."""
        try:
            return self._encoded(tokens)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Out of the handler, the frames that hold the batch's tensors are gone.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryError(said)

    def check_exact(self) -> None:
        """Some tenths of a second. Raises ValueError where this machine gives a text other bits alone than among others of
        its length: not seen so far, but libraries of matrix products promise nothing."""
        rng = np.random.default_rng(0)
        for length in sorted({min(length, self.max_tokens) for length in (2, 7, 33, 100)}):
            tokens = list(rng.integers(0, self._tokens.words, (9, length), np.int32))
            many = self.encode(tokens)
            for count in (1, 2, 5):
                if self.encode(tokens[-count:]).tobytes() != many[-count:].tobytes():
                    raise ValueError(f"exact can't be had on this machine: {count} of 9 texts of {length} tokens come out with "
                                     "other bits than all of them; leave it out, and vectors are equal to rounding")

    def is_out_of_memory(self, error: BaseException) -> bool:
        return out_of_memory(error)

    def _encoded(self, tokens: Sequence[Any]) -> Array:
        if not tokens:
            return np.zeros((0, self.dim), ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float32)
        ids, mask = self._tokens.batch(tokens)
        features: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self._device), "modality": "text",
                                    "attention_mask": torch.from_numpy(mask).to(self._device)}
        if self._tokens.prompt_length:
            features["prompt_length"] = self._tokens.prompt_length
        with torch.inference_mode():
            for module in (self._first, *self._rest):
                features = module(features)
            found = features["sentence_embedding"][:len(tokens), :self.dim]
            if self._normalize:
                found = torch.nn.functional.normalize(found, dim=1)
            if self.dtype == "float32":
                rows: Array = found.float().contiguous().cpu().numpy()
            else:       # numpy has no bfloat16: go through its bits
                rows = found.to(torch.bfloat16).contiguous().view(torch.uint16).cpu().numpy().view(ml_dtypes.bfloat16)
        return rows


class _Tokens:
    """The model's fast tokenizer, a copy of its own: the model's keeps its settings, and another thread."""

    def __init__(self, model: Any, first: Any, task: str, prompt: str) -> None:
        tokenizer = model.tokenizer
        source = tokenizer.backend_tokenizer
        self._tokenizer = type(source).from_str(source.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.fingerprint = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        self.most = min(getattr(first, f"{task}_length", None) or 1 << 30, tokenizer.model_max_length, 1 << 20)
        self._tokenizer.enable_truncation(self.most)
        self.words = self._tokenizer.get_vocab_size()
        self._pad, self._left = tokenizer.pad_token_id or 0, tokenizer.padding_side == "left"
        self._prompt = prompt
        self.prompt_length = self._length_of(prompt, set(tokenizer.all_special_ids))

    def _length_of(self, prompt: str, special: set[int]) -> int:
        ids = self._tokenizer.encode(prompt).ids if prompt else []
        return len(ids) - (1 if ids and ids[-1] in special else 0)

    def of(self, texts: Sequence[str]) -> list[Any]:
        most = self.most * _LETTERS
        whole = [self._prompt + text for text in texts] if self._prompt else list(texts)
        cut = [_cut(text, most) for text in whole]
        found = self._tokenizer.encode_batch_fast(cut)
        for at, (short, text) in enumerate(zip(cut, whole, strict=True)):
            letters = most
            while len(short) < len(text) and not found[at].overflowing:
                # Fewer tokens than the model takes: what was cut off has some of them.
                letters *= 2
                short = _cut(text, letters)
                found[at] = self._tokenizer.encode_batch_fast([short])[0]
        return [np.array(each.ids, np.int32) for each in found]

    def batch(self, tokens: Sequence[Any]) -> tuple[Array, Array]:
        """(n, longest) int64 ids and mask; texts of few tokens are repeated to LEAST_ROWS tokens."""
        longest = max(map(len, tokens))
        tokens = list(tokens) * -(-LEAST_ROWS // max(longest * len(tokens), 1))
        ids = np.full((len(tokens), longest), self._pad, np.int64)
        mask = np.zeros((len(tokens), longest), np.int64)
        for row, each in enumerate(tokens):
            part = slice(longest - len(each), None) if self._left else slice(len(each))
            ids[row, part], mask[row, part] = each, 1
        return ids, mask


def _cut(text: str, letters: int) -> str:
    """The start of ``text`` before a space: its words have the tokens that they have in the whole. All if no space is near."""
    if len(text) <= letters:
        return text
    for at in range(letters, letters // 2, -1):
        if text[at].isspace():
            return text[:at]
    return text


def _parts(model: Any, normalize: bool | None) -> tuple[Any, list[Any]]:
    """The transformer, and the modules behind it."""
    modules = list(model)
    first = modules[0]
    fast = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    texts = "text" in getattr(first, "modality_config", {}) and "message" not in first.modality_config
    if type(first).__name__ != "Transformer" or fast is None or not texts or getattr(first, "query_expansion", None):
        raise ValueError("this encoder takes a sentence-transformers model that begins with a Transformer over text with a "
                         "fast tokenizer; give any other one as a function: model=model.encode, name='its name'")
    rest = modules[1:]
    if normalize is False:
        rest = [module for module in rest if type(module).__name__ != "Normalize"]
    return first, rest


def _prompt(model: Any, task: str, prompt: str | None) -> str:
    if prompt is not None:
        return str(model.prompts.get(prompt, prompt))
    for name in (*_PROMPTS[task], model.default_prompt_name):
        if name is not None and model.prompts.get(name) is not None:
            return str(model.prompts[name])
    return ""


def _hash_of(model: Any) -> str:
    """SHA-256 over every weight's name and bytes, wherever they were loaded from."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _hash_of_config(model: Any) -> str:
    """SHA-256 over what weights do not say: how many heads, which activation, how many positions."""
    first = next(iter(model))
    config = getattr(first, "config", None) or getattr(getattr(first, "auto_model", None), "config", None)
    told = [{} if config is None else config.to_diff_dict(), getattr(first, "get_config_dict", dict)()]
    return hashlib.sha256(json.dumps([*map(_bare, told)], sort_keys=True, default=str).encode()).hexdigest()


def _bare(config: Any) -> Any:
    """Without what does not matter, at any depth."""
    if not isinstance(config, dict):
        return config
    return {str(name): _bare(value) for name, value in config.items() if name not in _NO_MATTER}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own progress bar: a run has one."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
