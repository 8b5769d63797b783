"""A step of UME-R1's reinforcement learning written plainly, on the stock model: given completions of both sides.

Prompts and pixels are those of :mod:`reasoning_reference`. Every rollout is a row of its own, the rewards are NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reasoning_reference import CHECKPOINT, OFFICIAL, PAIRS, SIDES, ids_of, prompts
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

MAX_LENGTH = 64
BETA = 0.04


def completions(official: bool) -> dict[str, list[list[list[int]]]]:
    """Tokens of three rollouts of every pair's sides; one has no ``<gen_emb>``, one no form, and one ends twice."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    end = "<|im_end|>" if official else ""
    found: dict[str, list[list[list[int]]]] = {}
    for name in SIDES:
        rows = []
        for number, pair in enumerate(PAIRS):
            said = pair[name]
            texts = [
                f"<think>{said['thought']}</think><answer>{said['answer']}<gen_emb>{end}",
                f"<think>{said['answer']}{'<gen_emb>' if number != 1 else ''}<|im_end|>",
                f"<think>a</think><answer>{said['thought']}<gen_emb>{'<gen_emb>' if official else ''}{end}",
            ]
            rows.append([ids_of(tokenizer, text) for text in texts])
        if not official:  # what ends a rollout is its first <gen_emb>
            gen = tokenizer.convert_tokens_to_ids("<gen_emb>")
            rows = [[one[: one.index(gen) + 1] if gen in one else one for one in row] for row in rows]
        found[name] = rows
    return found


def numpy_reward(
    queries: np.ndarray, targets: np.ndarray, alive: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Share of own targets among the nearest, times the gap: loops, of vectors [n, g, d] and bool [n, g]."""
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    n, g, _ = queries.shape
    found = np.zeros((n, g))
    for i in range(n):
        for j in range(g):
            scores = unit(targets) @ unit(queries[i, j])  # [n, g]
            own = scores[i][valid[i]]
            if not alive[i, j] or len(own) == 0:
                continue
            others = np.concatenate([scores[k][valid[k]] for k in range(n) if k != i])
            top = np.sort(np.concatenate([own, others]))[::-1][: len(own)]
            found[i, j] = (own >= top[-1]).sum() / len(own) * (own.mean() - others.mean())
    return found


def step(official: bool, change: Callable[[Any], None]) -> tuple[float, dict[str, Tensor], dict[str, Any]]:
    """Loss, gradients of the changed stock model, and by side ``reward`` [n, g], ``logp`` and ``ref_logp``."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    policy, reference = (
        AutoModelForImageTextToText.from_pretrained(CHECKPOINT, attn_implementation="eager") for _ in range(2)
    )
    change(policy)
    gen = tokenizer.convert_tokens_to_ids("<gen_emb>")
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    written = completions(official)
    sides: dict[str, Any] = {}
    for name, rows in written.items():
        grids = torch.from_numpy(OFFICIAL[f"images/{SIDES[name]}/image_grid_thw"])
        sizes = [int(grid.prod()) for grid in grids]
        pixels = torch.from_numpy(OFFICIAL[f"images/{SIDES[name]}/pixel_values"]).split(sizes)
        first, likely, expected, states, alive = 0, [], [], [], []
        for pair, prompt, samples in zip(PAIRS, prompts(tokenizer, name), rows, strict=True):
            own = slice(first, first + len(pair[name]["images"]))
            first = own.stop
            for tokens in samples:
                ids = torch.tensor([[*prompt, *tokens]])
                inputs = {
                    "input_ids": ids,
                    "mm_token_type_ids": (ids == image).long(),
                    "pixel_values": torch.cat(pixels[own]),
                    "image_grid_thw": grids[own],
                }
                output = policy(**inputs, output_hidden_states=True)
                with torch.no_grad():
                    frozen = reference(**inputs)
                where = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
                wanted = torch.tensor(tokens)[:, None]
                likely.append(output.logits[0, where].log_softmax(-1).gather(1, wanted)[:, 0])
                expected.append(frozen.logits[0, where].log_softmax(-1).gather(1, wanted)[:, 0])
                states.append(output.hidden_states[-1][0, (ids[0] == gen).nonzero()[-1, 0]].detach())
                alive.append(official or gen in tokens)
        shape = (len(rows), len(rows[0]))
        texts = [[tokenizer.decode(one) for one in row] for row in rows]
        form = re.compile("<think>.*?</think>.*?<answer>.*?<gen_emb>", re.DOTALL)
        sides[name] = {
            "logp": likely,
            "ref_logp": expected,
            "vectors": F.normalize(torch.stack(states), dim=-1).double().numpy().reshape(*shape, -1),
            "alive": np.array(alive).reshape(shape),
            "form": np.array([[float(form.search(text) is not None) for text in row] for row in texts]),
        }
    losses = []
    for name, other in (("query", "target"), ("target", "query")):
        one, two = sides[name], sides[other]
        embed = numpy_reward(one["vectors"], two["vectors"], one["alive"], two["alive"])
        one["reward"] = embed + one["form"]
        centred = one["reward"] - one["reward"].mean(axis=1, keepdims=True)
        advantages = centred / (one["reward"].std(axis=1, ddof=1, keepdims=True) + 1e-4)
        for advantage, logp, expected in zip(advantages.flatten(), one["logp"], one["ref_logp"], strict=True):
            ratio = (logp - logp.detach()).exp()
            k3 = (expected - logp).exp() - (expected - logp) - 1
            losses.append((-ratio * advantage + BETA * k3).sum() / MAX_LENGTH)
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    return loss.item(), gradients, sides
