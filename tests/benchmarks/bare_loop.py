"""A child: orders come in as lines of JSON, `mlx_lm.stream_generate` does them, its times go out as lines of JSON."""

from __future__ import annotations

import json
import sys
import time

from mlx_lm import load, stream_generate


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        message = {"role": "user", "content": order["content"]}
        began_s = time.perf_counter()
        prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True)
        times_s = [
            time.perf_counter() for _ in stream_generate(model, tokenizer, prompt, max_tokens=order["max_tokens"])
        ]
        told = {
            "tokens": len(times_s),
            "token_s": (times_s[-1] - times_s[0]) / (len(times_s) - 1),
            "ttft_s": times_s[0] - began_s,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
