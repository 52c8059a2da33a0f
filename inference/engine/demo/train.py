"""Makes the demo model: `python -m inference.engine.demo.train --out DIR [--steps N]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from inference.engine.demo.batches import Batch, Lesson, encode, endless_batches, pack
from inference.engine.demo.dialogues import draw_dialogues
from inference.engine.demo.evaluate import measure
from inference.engine.demo.fast_math import fast_cross_entropy, fast_model_math
from inference.engine.demo.initial import initialise
from inference.engine.demo.tokenizer import VOCABULARY_TOKENS, corpus, save_tokenizer, train_tokenizer

SEED_TOKENIZER, SEED_TRAINING, SEED_CHECK = 1, 2, 3
COPYING, FACTS = 0.03, 0.15  # shares of plain copying and of arithmetic facts among the examples
FIRST_LESSON = 0.3  # share of the training in which no dialogue is longer than 144 tokens
BATCH_TOKENS = 1024
CHECK_EVERY_STEPS = 200

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY_TOKENS,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "intermediate_size": 512,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}


def _report(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_tokenizer(out: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer on dialogues of its own seed and write it."""
    save_tokenizer(train_tokenizer(corpus(draw_dialogues(SEED_TOKENIZER, 6000))), out)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(out)
    return tokenizer


def make_model() -> Model:
    """A fresh model; see initial.py."""
    mx.random.seed(SEED_TRAINING)
    model = Model(ModelArgs.from_dict(CONFIG))
    initialise(model)
    return model


def batch_loss(model: Model, batch: Batch) -> mx.array:
    """Mean cross entropy over the learned tokens; the output matrix is applied to those alone."""
    hidden = model.model(batch.inputs)
    rows = hidden.reshape(-1, hidden.shape[-1])[batch.where]
    losses: Any = fast_cross_entropy(model.lm_head(rows), batch.targets)
    mean: mx.array = (losses * batch.weights).sum() / batch.weights.sum()
    return mean


def _nats(loss: mx.array) -> float:
    value = loss.item()
    assert isinstance(value, float)
    return value


def longest_for(done: float) -> int:
    """Curriculum: short dialogues first, where copying is learned fastest. `done` is the share of the training."""
    return 144 if done < FIRST_LESSON else 224 if done < 0.55 else 1024


def save_model(model: Model, out: Path) -> None:
    """Write weights, config.json and generation_config.json."""
    mx.save_safetensors(str(out / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    tokenizer = AutoTokenizer.from_pretrained(out)
    eos = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    (out / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": eos}, indent=2) + "\n")
    generation = {"do_sample": True, "temperature": 0.1, "top_p": 0.9, "eos_token_id": eos, "pad_token_id": eos[1]}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of AdamW with its own warm-up and cosine, from `began` (0 to 1) in the curriculum."""

    steps: int
    peak_lr: float
    seed: int
    began: float

    def longest(self, step: int) -> int:
        """Tokens of the longest dialogue at this step."""
        return longest_for(self.began + (1 - self.began) * step / self.steps)

    def schedule(self) -> Any:
        """Learning rate by step."""
        warm_up = min(100, self.steps // 10 + 1)
        cosine = optim.cosine_decay(self.peak_lr, self.steps - warm_up, self.peak_lr / 50)
        return optim.join_schedules([optim.linear_schedule(0.0, self.peak_lr, warm_up), cosine], [warm_up])


def train(model: Model, tokenizer: PreTrainedTokenizerBase, stage: Stage, out: Path) -> float:
    """Train; save whenever the loss on other dialogues is the best so far, and return it."""
    checks = pack([encode(tokenizer, one) for one in draw_dialogues(SEED_CHECK, 100)], 4 * BATCH_TOKENS)
    optimizer = optim.AdamW(stage.schedule(), betas=[0.9, 0.98], weight_decay=0.05, bias_correction=True)
    loss_and_grad = nn.value_and_grad(model, partial(batch_loss, model))
    lesson = Lesson(stage.longest(0), COPYING, FACTS)
    rng = Random(stage.seed)  # noqa: S311
    batches = endless_batches(tokenizer, rng, BATCH_TOKENS, lesson)
    best, began, seen, recent = float("inf"), time.monotonic(), 0, 0.0
    for step in range(1, stage.steps + 1):
        lesson.longest_tokens = stage.longest(step)
        batch = next(batches)
        loss, grads = loss_and_grad(batch)
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        optimizer.update(model, grads)
        mx.eval(model.state, optimizer.state, loss)
        seen += batch.inputs.size
        now = _nats(loss)
        recent = 0.97 * recent + 0.03 * now if recent else now
        if step % 50 == 0:
            rate = seen / (time.monotonic() - began)
            _report(f"step {step} loss {recent:.4f} tokens {seen} tokens/s {rate:.0f}")
        if step % CHECK_EVERY_STEPS == 0 or step == stage.steps:
            check = sum(_nats(batch_loss(model, one)) for one in checks) / len(checks)
            _report(f"step {step} check loss {check:.4f} after {time.monotonic() - began:.0f} s")
            if check < best:
                best = check
                save_model(model, out)
    return best


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=SEED_TRAINING, help="of the dialogues")
    parser.add_argument("--go-on", action="store_true", help="start from the weights in DIR, after the short dialogues")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    args.out.mkdir(parents=True, exist_ok=True)
    model = make_model()
    if args.go_on:
        tokenizer = AutoTokenizer.from_pretrained(args.out)
        model.load_weights(str(args.out / "model.safetensors"))
        stage = Stage(args.steps, args.lr, args.seed, FIRST_LESSON)
    else:
        tokenizer = make_tokenizer(args.out)
        stage = Stage(args.steps, args.lr, args.seed, 0.0)
    _report(f"parameters {sum(value.size for _, value in tree_flatten(model.parameters()))}")
    with fast_model_math():
        best = train(model, tokenizer, stage, args.out)
    _report(f"best check loss {best:.4f} {measure(args.out)}")


if __name__ == "__main__":
    main()
