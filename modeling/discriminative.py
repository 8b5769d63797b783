"""The discriminative embedder: one forward, one vector.

The model averages the states that ``pooling_slots`` marks; it knows nothing of prompts. Without slots it returns
states only. :meth:`encode` is the small door for people who have only this class and a processor; the installed
package's ``Encoder`` plans batches by tokens and is the one for scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .backbone import states_of
from .composed import UmePreTrainedModel
from .evaluating import evaluated
from .pooling import DIRECT_SLOT, check_dim, check_vectors, finish, pool
from .settings import whole_number


@dataclass
class UmeOutput(ModelOutput):
    """Output of a forward.

    Attributes:
        last_hidden_state: ``[B, L, H]``, after the final norm, in the backbone's dtype.
        embeddings: float32 ``[B, d]``, rows of length one unless the settings say otherwise; None without slots.
        generated_embeddings: the same at the second slot, where a thought is part of the input (generative role).
    """

    last_hidden_state: Tensor | None = None
    embeddings: Tensor | None = None
    generated_embeddings: Tensor | None = None


class UmeForDiscriminativeEmbedding(UmePreTrainedModel):
    """Embeds text, images, video and documents in one forward of a stock vision-language backbone.

    Example::

        processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(["a red bicycle", {"image": "bicycle.jpg"}], processor=processor)
    """

    role: ClassVar[str] = "discriminative"
    modes: ClassVar[tuple[str, ...]] = ("discriminative",)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        pooling_slots: Tensor | None = None,
        dim: int | None = None,
        return_dict: bool | None = None,
    ) -> UmeOutput:
        """One forward.

        Args:
            input_ids, attention_mask, mm_token_type_ids, pooling_slots: ``[B, L]``; left or right padding.
            pixel_values: patches of all images of the batch, ``[patches, C*T*P*P]``, with ``image_grid_thw``
                ``[images, 3]``; likewise for videos.
            mm_encoder_outputs: features of the media in place of their pixels; see ``VisionStore.outputs``.
            dim: keep the first ``dim`` numbers; the checkpoint's own when None.
            return_dict: accepted for compatibility; the output is always a :class:`UmeOutput`.
        """
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": mm_token_type_ids,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        states = states_of(self.backbone, {k: v for k, v in inputs.items() if v is not None}, self.settings)
        if pooling_slots is None:
            return UmeOutput(last_hidden_state=states)
        return self._pooled(states, pooling_slots, dim)

    def _pooled(self, states: Tensor, slots: Tensor, dim: int | None) -> UmeOutput:
        return UmeOutput(states, self._finish(pool(states, slots, DIRECT_SLOT), dim))

    def _finish(self, pooled: Tensor, dim: int | None) -> Tensor:
        kept = self.settings.dim if dim is None else check_dim(dim, self.dim)
        return finish(pooled, normalize=self.settings.normalize, dim=kept)

    @evaluated
    @torch.inference_mode()
    def encode(
        self,
        items: Any,
        *,
        processor: Any,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        dim: int | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """Embed items, without dropout whatever mode the model is in.

        Args:
            items: one item or a sequence of items: ``str``, a PIL image, or a dict of text, image(s), video,
                document, instruction.
            processor: the checkpoint's processor.
            role: None, ``"query"`` or ``"document"``: default instruction per side.
            instruction: replaces the role's default instruction.
            mode: None or ``"discriminative"``; other modes need another role's checkpoint.
            dim: keep the first ``dim`` numbers.
            batch_size: rows per forward.

        Returns:
            float32 ``[n, d]`` on the model's device, in the items' order.

        Raises:
            DegenerateVectorError: a vector is zero, constant or not finite.
        """
        if mode not in (None, "discriminative"):
            raise ValueError(f"mode={mode!r} needs a generative checkpoint; this one is discriminative")
        whole_number("batch_size", batch_size)
        listed: Sequence[Any] = items if isinstance(items, (list, tuple)) else [items]
        kept = self.dim if dim is None else check_dim(dim, self.dim)
        if not listed:
            return torch.empty(0, kept, dtype=torch.float32, device=self.device)
        prepared = processor.prepare_all(listed, role=role, instruction=instruction)
        order = sorted(range(len(prepared)), key=lambda i: prepared[i].length)
        vectors: list[Tensor | None] = [None] * len(prepared)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = processor.collate([prepared[i] for i in rows]).to(self.device)
            embeddings = self(**batch, dim=dim).embeddings
            check_vectors(embeddings)
            for row, vector in zip(rows, embeddings, strict=True):
                vectors[row] = vector
        return torch.stack([vector for vector in vectors if vector is not None])
