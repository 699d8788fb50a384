#!/usr/bin/env python3
"""Train the sample checkpoint again, from the standard library of the Python that runs this.

Examples::

    python scripts/train_sample.py --output sample-new
    python scripts/train_sample.py --output sample-new --resume
    python scripts/train_sample.py --evaluate trtllm_forge/data/sample

A run is fixed by its recipe and ``--seed``: every step draws its windows and its dropout from
the seed and the step's own number, so a run that was stopped and resumed takes the very steps
that an uninterrupted one takes. What every 25th file holds is never trained on; the loss there
says which weights are kept. Progress goes to stderr, the final loss to stdout.

While it runs, ``.NAME.training/state.pt`` beside the output holds the last saved state. The
checkpoint itself appears at the end, in one rename.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import random
import shlex
import shutil
import sys
import sysconfig
from itertools import count
from pathlib import Path
from typing import NoReturn

try:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging as transformers_logging
except ImportError as error:
    missing = f"error: {error.name} is not installed\n  try:  pip install 'trtllm-forge[cpu]'"
    print(missing, file=sys.stderr)
    raise SystemExit(3) from error

END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = range(5)
SPECIALS = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
FIM_MARKS = 4  # prefix, suffix, middle and end, which a rearranged window makes room for
HELD_OUT_EVERY = 25
# Conversion tables, generated text and other people's packages teach nothing about code.
LEFT_OUT = {"lib2to3", "encodings", "pydoc_data", "site-packages", "dist-packages"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything besides the text and the seed that decides the weights."""

    corpus_stride: int = 1
    vocab_size: int = 4096
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_positions: int = 1024
    dropout: float = 0.05
    window_tokens: int = 384
    fim_fraction: float = 0.4
    batch_size: int = 12
    steps: int = 5200
    warmup_steps: int = 100
    peak_rate: float = 1.5e-3
    final_rate_fraction: float = 0.05
    weight_decay: float = 0.1
    save_every: int = 260
    precision: str = "bf16"


# Trains in seconds on one core and is good for nothing: it shows that the script works.
SMOKE = Recipe(
    corpus_stride=40,
    vocab_size=512,
    n_embd=64,
    n_layer=2,
    window_tokens=64,
    steps=30,
    warmup_steps=5,
    save_every=15,
    precision="f32",
)


@dataclasses.dataclass(kw_only=True)
class Run:
    """A training run between two steps: what ``state.pt`` holds and ``--resume`` restores."""

    model: GPTBigCodeForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def keep_if_best(self, loss: float) -> None:
        """Remember the present weights when no earlier ones had a lower held-out loss."""
        if loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss
            weights = self.model.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in weights.items()}


def report(text: str) -> None:
    """Print progress or a mistake, on stderr."""
    print(text, file=sys.stderr, flush=True)


def refuse(exit_code: int, what: str, *, why: str = "", hint: str = "") -> NoReturn:
    """Say what is wrong, why and what to type, and end."""
    report(f"error: {what}" + (f"\n  why:  {why}" if why else ""))
    if hint:
        report(f"  try:  {hint}")
    raise SystemExit(exit_code)


def read_corpus(stride: int) -> tuple[list[str], list[str]]:
    """Return the texts to train on and the held-out ones; ``stride`` thins the files out."""
    root = Path(sysconfig.get_path("stdlib"))
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = set(subfolders) - LEFT_OUT
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    texts = []
    for path in sorted(paths)[::stride]:
        with contextlib.suppress(UnicodeDecodeError):  # some tests are in other encodings
            texts.append(path.read_text(encoding="utf-8"))
    if len(texts) <= HELD_OUT_EVERY:
        refuse(3, f"found {len(texts)} files of Python below {root}, need {HELD_OUT_EVERY + 1}")
    training = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY]
    return training, texts[::HELD_OUT_EVERY]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer whose first entries are the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Return the token ids of all texts in one row, each text closed by ``<|endoftext|>``."""
    encodings = tokenizer.encode_batch(texts)
    return torch.tensor([token for encoding in encodings for token in (*encoding.ids, END)])


def rearrange_for_fim(window: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Cut a window at two tokens and return prefix, suffix, middle with their marks."""
    start, end = sorted(rng.randint(0, len(window)) for _ in range(2))
    prefix, middle, suffix = (part.tolist() for part in window.tensor_split((start, end)))
    return torch.tensor([FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE, *middle, END])


def draw_batch(stream: torch.Tensor, recipe: Recipe, rng: random.Random) -> torch.Tensor:
    """Return random windows ``[batch_size, window_tokens]``, some rearranged for FIM.

    A window in which a file ends stays as it is: its parts would not belong together.
    """
    rows = []
    for _ in range(recipe.batch_size):
        start = rng.randrange(len(stream) - recipe.window_tokens)
        window = stream[start : start + recipe.window_tokens]
        if rng.random() < recipe.fim_fraction and not (window == END).any():
            window = rearrange_for_fim(window[:-FIM_MARKS], rng)
        rows.append(window)
    return torch.stack(rows)


def build_model(recipe: Recipe) -> GPTBigCodeForCausalLM:
    """Return the StarCoder-shaped model with random weights."""
    config = GPTBigCodeConfig(
        vocab_size=recipe.vocab_size,
        n_positions=recipe.n_positions,
        n_embd=recipe.n_embd,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        n_inner=4 * recipe.n_embd,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=0.0,
        multi_query=True,
        bos_token_id=END,
        eos_token_id=END,
    )
    return GPTBigCodeForCausalLM(config)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of one step: a linear warm-up, then a cosine down to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    final = recipe.peak_rate * recipe.final_rate_fraction
    return final + (recipe.peak_rate - final) * 0.5 * (1 + math.cos(math.pi * done))


def held_out_loss(model: GPTBigCodeForCausalLM, stream: torch.Tensor, recipe: Recipe) -> float:
    """Return the mean loss per predicted token, in nats, over consecutive plain windows."""
    whole = stream[: len(stream) // recipe.window_tokens * recipe.window_tokens]
    batches = whole.view(-1, recipe.window_tokens).to(model.device).split(recipe.batch_size)
    model.eval()
    with torch.inference_mode():
        losses = [model(batch, labels=batch).loss.item() for batch in batches]
    weighted = sum(loss * len(batch) for loss, batch in zip(losses, batches, strict=True))
    return float(weighted / sum(map(len, batches)))


def train_step(run: Run, stream: torch.Tensor, recipe: Recipe, seed: int) -> float:
    """Take one step and return its training loss."""
    rng = random.Random(f"{seed}:{run.step}")
    torch.manual_seed(rng.getrandbits(63))
    batch = draw_batch(stream, recipe, rng).to(run.model.device)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, recipe)
    run.model.train()
    bf16 = recipe.precision == "bf16"
    with torch.autocast(run.model.device.type, torch.bfloat16, enabled=bf16):
        loss = run.model(batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return float(loss.item())


def save_state(run: Run, identity: dict[str, object], path: Path) -> None:
    """Write the state of a run; a crash in the middle leaves the one before it."""
    values = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    values |= {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    torch.save({"identity": json.dumps(identity), **values}, scratch)
    scratch.replace(path)


def load_state(run: Run, identity: dict[str, object], path: Path) -> None:
    """Fill ``run`` from a saved state, and refuse the state of any other run."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    was = json.loads(state.pop("identity"))
    for key in (key for key, value in identity.items() if was.get(key) != value):
        what = f"the stopped run has {key} {was.get(key)}, this one {identity[key]}"
        refuse(2, what, why=str(path), hint=f"rm -r {shlex.quote(str(path.parent))}")
    run.model.load_state_dict(state.pop("model"))
    run.optimizer.load_state_dict(state.pop("optimizer"))
    for name, value in state.items():
        setattr(run, name, value)


def publish(output: Path, run: Run, tokenizer: Tokenizer, scratch_dir: Path) -> None:
    """Write the best weights as an HF checkpoint in fp16 and move it to ``output`` whole."""
    run.model.load_state_dict(run.best_weights)
    run.model.half().save_pretrained(scratch_dir)
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), SPECIALS[END])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=SPECIALS[1:], **roles
    )
    fast.save_pretrained(scratch_dir)
    scratch_dir.rename(output)


def check_output(output: Path, state_path: Path, *, resume: bool) -> None:
    """Refuse to overwrite a checkpoint, to lose a stopped run, or to resume one never begun."""
    if output.exists():
        names = (output.with_name(f"{output.name}-{number}") for number in count(2))
        move = shlex.join(["mv", str(output), str(next(p for p in names if not p.exists()))])
        refuse(2, f"{output} exists and is not overwritten", hint=move)
    if resume and not state_path.exists():
        refuse(2, f"there is no stopped run of {output} to resume", why=f"no {state_path}")
    if state_path.exists() and not resume:
        hint = shlex.join(["python", *sys.argv, "--resume"])
        refuse(2, f"a stopped run of {output} is there", why=str(state_path), hint=hint)


def train(output: Path, recipe: Recipe, *, seed: int, device: str, resume: bool) -> None:
    """Train, and publish the weights with the lowest held-out loss at ``output``."""
    state_path = output.parent / f".{output.name}.training" / "state.pt"
    check_output(output, state_path, resume=resume)
    training_texts, held_out_texts = read_corpus(recipe.corpus_stride)
    tokenizer = train_tokenizer(training_texts, recipe.vocab_size)
    training = token_stream(tokenizer, training_texts)
    held_out = token_stream(tokenizer, held_out_texts)
    report(f"{len(training):,} tokens to train on, {len(held_out):,} held out")
    digest = hashlib.sha256(training.numpy().tobytes() + held_out.numpy().tobytes()).hexdigest()
    identity = {**dataclasses.asdict(recipe), "seed": seed, "corpus_sha256": digest}

    torch.manual_seed(seed)
    model = build_model(recipe).to(device)
    decay = recipe.weight_decay
    adamw = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=decay)
    run = Run(model=model, optimizer=adamw)
    if resume:
        load_state(run, identity, state_path)
        report(f"resuming after step {run.step}")
    else:
        run.keep_if_best(held_out_loss(model, held_out, recipe))
        report(f"step 0/{recipe.steps}  held-out loss {run.best_loss:.4f}")
    while run.step < recipe.steps:
        training_loss = train_step(run, training, recipe, seed)
        if run.step % recipe.save_every == 0 or run.step == recipe.steps:
            loss = held_out_loss(model, held_out, recipe)
            run.keep_if_best(loss)
            save_state(run, identity, state_path)
            losses = f"training loss {training_loss:.4f}  held-out loss {loss:.4f}"
            report(f"step {run.step}/{recipe.steps}  {losses}")
    report(f"keeping the weights of step {run.best_step}")
    publish(output, run, tokenizer, state_path.parent / "checkpoint")
    shutil.rmtree(state_path.parent)


def evaluate(checkpoint_dir: Path, recipe: Recipe, *, device: str) -> float:
    """Return a checkpoint's held-out loss, in f32 and by the checkpoint's own tokenizer."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (checkpoint_dir / name).is_file():
            refuse(4, f"{checkpoint_dir} is no checkpoint of this script: it has no {name}")
    model = GPTBigCodeForCausalLM.from_pretrained(
        checkpoint_dir, dtype=torch.float32, local_files_only=True
    ).to(device)
    _, texts = read_corpus(recipe.corpus_stride)
    tokenizer = Tokenizer.from_file(str(checkpoint_dir / "tokenizer.json"))
    return held_out_loss(model, token_stream(tokenizer, texts), recipe)


def positive(text: str) -> int:
    """Return a whole number from 1 up."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"is {number}, must be at least 1")
    return number


def parse_arguments() -> tuple[argparse.Namespace, Recipe]:
    """Return the command line and the recipe it asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, metavar="DIR", help="checkpoint to make")
    task.add_argument("--evaluate", type=Path, metavar="DIR", help="only print this one's loss")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on one core, seconds")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    recipe = parser.add_argument_group("recipe", argument_default=argparse.SUPPRESS)
    recipe.add_argument("--steps", type=positive, metavar="N", help="default: 5200")
    recipe.add_argument("--batch-size", type=positive, metavar="N", help="default: 12")
    recipe.add_argument("--save-every", type=positive, metavar="N", help="default: 260 steps")
    recipe.add_argument("--precision", choices=("bf16", "f32"), help="default: bf16")
    arguments = parser.parse_args()
    fields = {field.name for field in dataclasses.fields(Recipe)}
    asked = {name: value for name, value in vars(arguments).items() if name in fields}
    return arguments, dataclasses.replace(SMOKE if arguments.smoke else Recipe(), **asked)


def main() -> None:
    """Run the script."""
    arguments, recipe = parse_arguments()
    device = arguments.device
    transformers_logging.disable_progress_bar()
    if arguments.smoke:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cuda":
        if not torch.cuda.is_available():
            refuse(3, "--device is cuda, torch sees no GPU")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS repeats itself only with this
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    if output := arguments.output:
        train(output, recipe, seed=arguments.seed, device=device, resume=arguments.resume)
    checkpoint_dir = output or arguments.evaluate
    loss = evaluate(checkpoint_dir, recipe, device=device)
    print(f"{checkpoint_dir}: held-out loss {loss:.4f}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        refuse(130, "interrupted")
