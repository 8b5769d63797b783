"""Rollouts by vLLM in this process, for language and pictures; its copy of the weights is renewed before each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..processing.vision import Patches
from .lazy_media import loaded
from .rollouts import Completion, Prompt, Sampling


class VllmRollouts:
    """An engine for :class:`RLVRTrainer`: ``rollout_engine=VllmRollouts.of(folder, processor)``.

    vLLM gives no states, so the trainer reads the vectors in a pass of its own. Videos are refused: a frame that vLLM
    samples again is another frame. Every rank has an engine on its own GPU.

    llm: a ``vllm.LLM`` of the trained checkpoint's backbone, made with ``enforce_eager`` or not.
    """

    def __init__(self, llm: Any, processor: Any) -> None:
        self.llm = llm
        self.processor = processor
        self.never: list[int] = []  # ids that may not be written, of the model of each update

    @classmethod
    def of(cls, folder: str, processor: Any, **options: Any) -> VllmRollouts:
        """Of a checkpoint's folder. options: of ``vllm.LLM``, ``gpu_memory_utilization`` above all.

        Raises:
            ImportError: vLLM is not installed.
        """
        try:
            from vllm import LLM
        except ImportError:
            raise ImportError("VllmRollouts needs vllm: pip install vllm") from None
        return cls(LLM(model=folder, **options), processor)

    def update(self, model: Any) -> None:
        """Give vLLM the weights that the model has now, an adapter's added to those it adapts."""
        weights = list(merged_weights(model.backbone))
        self.llm.apply_model(lambda own: own.load_weights(iter(weights)) and None)
        self.llm.reset_prefix_cache()
        rows = model.backbone.config.get_text_config().vocab_size  # more than there are tokens, mostly
        without_token = range(len(self.processor.tokenizer), rows)
        self.never = sorted({*model.thought_tokens.never, *without_token})

    def rollout(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """As in :class:`RolloutEngine`."""
        if not prompts:
            return []
        items = loaded([prompt.item for prompt in prompts], self.processor)
        asked = [self._prompt(item) for item in items]
        parameters = [self._parameters(prompt, sampling) for prompt in prompts]
        outputs = self.llm.generate(asked, parameters, use_tqdm=False)
        return [[Completion([int(t) for t in one.token_ids]) for one in row.outputs] for row in outputs]

    def _prompt(self, item: Any) -> dict[str, Any]:
        if item.videos:
            raise ValueError("VllmRollouts cannot roll out videos: leave rollout_engine out for such rows")
        # vLLM puts a picture's tokens in place of one placeholder.
        ids, kinds = item.input_ids, item.token_types
        repeated = np.zeros(len(ids), dtype=bool)
        repeated[1:] = (kinds[1:] == 1) & (kinds[:-1] == 1)
        found: dict[str, Any] = {"prompt_token_ids": ids[~repeated].tolist()}
        if item.images:
            found["multi_modal_data"] = {
                "image": [picture(one, self.processor.layout.merge) for one in item.images]
            }
        return found

    def _parameters(self, prompt: Prompt, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=sampling.count,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k or 0,
            seed=int(np.random.SeedSequence(prompt.seed).generate_state(1)[0]),
            logit_bias=dict.fromkeys(self.never, -100.0),
            detokenize=False,
            skip_special_tokens=False,
        )


def picture(patches: Patches, merge: int) -> Image.Image:
    """The picture that was cut into patches, as it was resized."""
    _, rows, columns = patches.grid
    values = patches.values[:, :, 0]  # one frame
    channels, side = values.shape[1], values.shape[-1]
    cells = values.reshape(rows // merge, columns // merge, merge, merge, channels, side, side)
    pixels = cells.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, channels)
    return Image.fromarray(np.ascontiguousarray(pixels))


@torch.no_grad()
def merged_weights(backbone: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and values of a backbone's weights as its checkpoint has them, those of an adapter merged in."""
    layers = dict(backbone.named_modules())
    for name, value in backbone.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            layer: Any = layers[owner]
            value = value + sum(layer.get_delta_weight(one) for one in layer.active_adapters).to(value.dtype)
        yield (f"{owner}.{leaf}" if owner else name), value.detach()
