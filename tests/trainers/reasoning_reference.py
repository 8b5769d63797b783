"""UME-R1's cold start written plainly: stock model, stock tokenizer, one forward a side; and its loss in NumPy.

Ids are built as the published data code does, each turn tokenised by itself; pixels are those that it made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "golden" / "ume_r1" / "checkpoint"
OFFICIAL: dict[str, np.ndarray] = dict(np.load(HERE / "golden" / "ume_r1_sft.npz"))
STORED = json.loads((HERE / "golden" / "ume_r1_sft.json").read_text(encoding="utf-8"))
PAIRS = STORED["pairs"]["images"]
SIDES = {"query": "qry", "target": "pos"}
TAU = 0.02


def rows() -> list[dict[str, Any]]:
    """The pairs as rows of a data set."""
    found = []
    for pair in PAIRS:
        query, positive = (
            {"images": [Image.fromarray(OFFICIAL[f"image/{name}"]) for name in pair[side]["images"]]}
            | {"text": pair[side]["text"]}
            for side in SIDES
        )
        found.append(
            {
                "query": query,
                "positive": positive,
                "query_thought": pair["query"]["thought"],
                "answer": pair["query"]["answer"],
                "positive_thought": pair["target"]["thought"],
                "positive_answer": pair["target"]["answer"],
            }
        )
    return found


@dataclass
class Side:
    """One side of all pairs: model inputs, what is to be written, and where the vectors are."""

    inputs: dict[str, Tensor]
    labels: Tensor
    disc: list[int]
    gen: list[int]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Ids of one turn's text."""
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def prompts(tokenizer: Any, name: str) -> list[list[int]]:
    """Ids of one side's prompts, up to where the assistant begins to write."""
    grids = iter(OFFICIAL[f"images/{SIDES[name]}/image_grid_thw"])
    found = []
    for pair in PAIRS:
        said = pair[name]
        media = "".join(
            f"<|vision_start|>{'<|image_pad|>' * (int(next(grids).prod()) // 4)}<|vision_end|>"
            for _ in said["images"]
        )
        user = f"<|im_start|>user\n{media}{said['text']}\n<disc_emb>\n{STORED['instruction']}<|im_end|>\n"
        turns = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
            user,
            "<|im_start|>assistant\n",
        )
        found.append([token for turn in turns for token in ids_of(tokenizer, turn)])
    return found


def side(tokenizer: Any, name: str) -> Side:
    """A padded side."""
    disc, gen = (tokenizer.convert_tokens_to_ids(token) for token in ("<disc_emb>", "<gen_emb>"))
    lines = [
        (
            prompt,
            ids_of(
                tokenizer,
                f"<think>{pair[name]['thought']}</think><answer>{pair[name]['answer']}<gen_emb><|im_end|>\n",
            ),
        )
        for pair, prompt in zip(PAIRS, prompts(tokenizer, name), strict=True)
    ]
    longest = max(len(prompt) + len(written) for prompt, written in lines)
    ids = torch.full((len(lines), longest), tokenizer.pad_token_id or 0)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (prompt, written) in enumerate(lines):
        line = torch.tensor([*prompt, *written])
        ids[row, : len(line)], mask[row, : len(line)] = line, 1
        labels[row, len(prompt) : len(line)] = line[len(prompt) :]
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == image).long(),
        "pixel_values": torch.from_numpy(OFFICIAL[f"images/{SIDES[name]}/pixel_values"]),
        "image_grid_thw": torch.from_numpy(OFFICIAL[f"images/{SIDES[name]}/image_grid_thw"]),
    }
    last = lambda token: [int((row == token).nonzero()[-1]) for row in ids]  # noqa: E731
    return Side(inputs, labels, last(disc), last(gen))


def contrastive(query: Tensor, positive: Tensor) -> Tensor:
    """Both directions, averaged."""
    scores = F.normalize(query, dim=-1) @ F.normalize(positive, dim=-1).T / TAU
    own = torch.arange(len(scores))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def step(
    change: Callable[[Any], None] = lambda _model: None, ranks: int = 1
) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Any]]:
    """Parts of the loss, gradients of the stock model's parameters, and what the NumPy twin is fed.

    change: of the model before it. ranks: over which each side's token means are averaged, pairs in order.
    """
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, attn_implementation="eager")
    model.train()
    change(model)
    vectors, entropies, given = {}, {}, {}
    for name in SIDES:
        one = side(tokenizer, name)
        output = model(**one.inputs, output_hidden_states=True)
        states, pairs = output.hidden_states[-1], range(len(PAIRS))
        vectors[name] = (states[pairs, one.disc], states[pairs, one.gen])
        logits, labels = output.logits[:, :-1], one.labels[:, 1:]
        parts = [
            F.cross_entropy(some.flatten(0, 1), them.flatten(), ignore_index=-100)
            for some, them in zip(logits.chunk(ranks), labels.chunk(ranks), strict=True)
        ]
        entropies[name] = torch.stack(parts).mean()
        given[name] = {"disc": vectors[name][0], "gen": vectors[name][1], "logits": logits, "labels": labels}
    losses = {
        "disc_loss": contrastive(vectors["query"][0], vectors["target"][0]),
        "gen_loss": contrastive(vectors["query"][1], vectors["target"][1]),
        "query_ce": entropies["query"],
        "positive_ce": entropies["target"],
    }
    total = torch.stack([*losses.values()]).sum()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    plain = {k: {name: one.detach().double().numpy() for name, one in v.items()} for k, v in given.items()}
    return {**{k: v.item() for k, v in losses.items()}, "loss": total.item()}, gradients, plain


# ---- the loss in NumPy -----------------------------------------------------------------------------


def numpy_loss(sides: dict[str, Any]) -> dict[str, float]:
    """Parts and total, of states ``disc`` and ``gen`` [n, d], ``logits`` [n, L, V] and ``labels`` [n, L] of a side."""
    query, target = sides["query"], sides["target"]
    found = {f"{slot}_loss": numpy_contrastive(query[slot], target[slot]) for slot in ("disc", "gen")}
    for name, one in (("query_ce", query), ("positive_ce", target)):
        asked = one["labels"] >= 0
        logits, wanted = one["logits"][asked], one["labels"][asked].astype(int)
        found[name] = float(-_log_softmax(logits)[np.arange(len(wanted)), wanted].mean())
    return {**found, "loss": sum(found.values())}


def numpy_contrastive(query: np.ndarray, positive: np.ndarray) -> float:
    """InfoNCE of both directions."""
    q, p = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (query, positive))
    scores = q @ p.T / TAU
    return float(-(np.diag(_log_softmax(scores)) + np.diag(_log_softmax(scores.T))).mean() / 2)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
