"""The reranker: one forward says how much more likely "yes" is than "no" as the answer to a pair.

The score is the softmax of two logits, taken for "yes", at the first answer position; that is the sigmoid of their
difference, as other systems write it. Two rows of the output matrix are all that is multiplied, in float32: in
bfloat16 the logits of a large vocabulary move in steps of 1/16 and pairs tie. Nothing is ever generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .backbone import back_home, base_of, states_of
from .batching import default_tokens
from .composed import UmePreTrainedModel
from .evaluating import evaluated
from .pooling import DIRECT_SLOT, DegenerateVectorError, pool, whole_number
from .prefix import PrefixReader
from .settings import UmeSettings, UmeSettingsError
from .vision_features import VisionFeatureCache


@dataclass
class UmeScores(ModelOutput):
    """Output of a forward.

    Attributes:
        last_hidden_state: ``[B, L, H]``, after the final norm, in the backbone's dtype.
        logits: float32 ``[B, 2]`` of the answers yes and no.
        scores: float32 ``[B]`` in 0..1.
    """

    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    scores: Tensor | None = None


class UmeForReranking(UmePreTrainedModel):
    """Scores pairs of a query and a candidate.

    Example::

        processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        scores = model.rerank("a red bicycle", [{"image": "bicycle.jpg"}, "a kettle"], processor=processor)
    """

    kind: ClassVar[str] = "reranker"

    def __init__(
        self, config: Any, backbone: nn.Module | None = None, settings: UmeSettings | None = None
    ) -> None:
        super().__init__(config, backbone, settings)
        if self.settings.attention != "causal":
            raise UmeSettingsError(f"a reranker needs causal attention, not {self.settings.attention!r}")
        for name in ("yes", "no"):
            if not isinstance(self.settings.tokens.get(name), int):
                raise UmeSettingsError(
                    f"config.ume.tokens has no single token {name!r}: a reranker's checkpoint names its answers; "
                    "load a published one with its preset"
                )

    @property
    def answer_ids(self) -> list[int]:
        """Token ids of yes and no."""
        return [int(self.settings.tokens[name]) for name in ("yes", "no")]  # type: ignore[arg-type]

    def answer_logits(self, states: Tensor) -> Tensor:
        """Logits of yes and no: states ``[..., H]`` to float32 ``[..., 2]``."""
        head = self.backbone.get_output_embeddings()
        if not head.weight.is_floating_point():  # a quantised matrix has no rows to take
            return back_home(head(states.to(self.dtype)), states)[..., self.answer_ids].float()
        rows = back_home(head.weight[self.answer_ids], states)
        # Row by row, so that equal pairs have equal scores wherever they stand in a batch.
        return (states.float().unsqueeze(-2) * rows.float()).sum(dim=-1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        pooling_slots: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> UmeScores:
        """One forward over whole rows, with gradients; :meth:`rerank` shares work between the pairs of a query.

        Args:
            input_ids, attention_mask, mm_token_type_ids, pooling_slots: ``[B, L]``; the slot is the answer position.
            pixel_values: patches of all images of the batch, with ``image_grid_thw``; likewise for videos.
            return_dict: accepted for compatibility; the output is always a :class:`UmeScores`.

        Raises:
            ValueError: no slots: the states alone are nothing to be taken for an embedding.
        """
        if pooling_slots is None:
            raise ValueError(
                "a reranker has scores and no vectors: rerank(query, candidates, processor=processor), or in "
                "sentence-transformers a CrossEncoder in place of a SentenceTransformer; a forward needs pooling_slots"
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": mm_token_type_ids,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
        }
        states = states_of(self.backbone, {k: v for k, v in inputs.items() if v is not None}, self.settings)
        logits = self.answer_logits(pool(states, pooling_slots, DIRECT_SLOT))
        return UmeScores(last_hidden_state=states, logits=logits, scores=scores_of(logits))

    def vision_cache(self, processor: Any, keep_bytes: int = 0) -> VisionFeatureCache:
        """Features of media, to be shared by several calls of :meth:`pair_logits`."""
        base = base_of(self.backbone)
        return VisionFeatureCache(
            base,
            lambda media: processor.pixels(media, lambda tensor: tensor.to(base.device)),
            deepstack=self.settings.deepstack,
            keep_bytes=keep_bytes,
        )

    @evaluated
    @torch.inference_mode()
    def pair_logits(
        self,
        rows: Sequence[Any],
        *,
        processor: Any,
        batch_tokens: int | None = None,
        features: VisionFeatureCache | None = None,
        share: bool = True,
    ) -> Tensor:
        """Logits of prepared pairs; what all of them begin with is read once, and so is every medium.

        Args:
            rows: from ``processor.prepare_pairs``, best those of one query.
            processor: the checkpoint's processor.
            batch_tokens: padded tokens of one forward; chosen by device when None.
            features: see :meth:`vision_cache`; one for this call when None.
            share: False reads every pair whole.

        Returns:
            float32 ``[n, 2]`` of yes and no, on the model's device.

        Raises:
            DegenerateVectorError: a logit is not finite.
        """
        if batch_tokens is not None:
            whole_number("batch_tokens", batch_tokens)
        if not rows:
            return torch.empty(0, 2, dtype=torch.float32, device=self.device)
        budget = batch_tokens or default_tokens(self.device)
        features = features if features is not None else self.vision_cache(processor)
        reader = PrefixReader(self.backbone, self.settings, processor, features)
        logits = self.answer_logits(reader.forward(reader.plan(rows, budget, share)))
        if not bool(torch.isfinite(logits).all()):
            raise DegenerateVectorError(
                "a pair's logits are not finite; the weights, the dtype or the attention kernel are broken"
            )
        return logits

    def rerank(
        self,
        query: Any,
        candidates: Sequence[Any],
        *,
        processor: Any,
        instruction: str | None = None,
        batch_tokens: int | None = None,
    ) -> Tensor:
        """Score candidates for a query.

        Args:
            query: an item: ``str``, a PIL image, or a dict of text, image(s), video, document, instruction.
            candidates: items.
            processor: the checkpoint's processor.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            batch_tokens: padded tokens of one forward; chosen by device when None.

        Returns:
            float32 ``[n]`` in 0..1 on the model's device, in the candidates' order.
        """
        rows = processor.prepare_pairs(query, candidates, instruction=instruction)
        return scores_of(self.pair_logits(rows, processor=processor, batch_tokens=batch_tokens))


def scores_of(logits: Tensor) -> Tensor:
    """Softmax over yes and no, taken for yes: ``[..., 2]`` to ``[...]``."""
    return torch.sigmoid(logits[..., 0] - logits[..., 1])
