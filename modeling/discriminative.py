"""The discriminative embedder: one forward, one vector.

The model averages the states that ``pooling_slots`` marks; it knows nothing of prompts. Without slots it returns
states only. :meth:`encode` is the small door for people who have only this class and a processor; the installed
package's ``Encoder`` plans batches by tokens and is the one for scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from transformers.utils import ModelOutput

from .backbone import states_of
from .batching import Collator, TokenBudget, default_tokens
from .composed import UmePreTrainedModel
from .encode_loop import Encoded, EncodeOptions, encode_batches
from .evaluating import evaluating
from .pooling import DIRECT_SLOT, check_dim, finish, pool, whole_number


@dataclass
class UmeOutput(ModelOutput):
    """Output of a forward.

    Attributes:
        last_hidden_state: ``[B, L, H]``, after the final norm, in the backbone's dtype.
        embeddings: float32 ``[B, d]``, rows of length one unless the settings say otherwise; None without slots.
        generated_embeddings: the same at the second slot, where a thought is part of the input (generative kind);
            zero in rows without one, None where no row has one.
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

    kind: ClassVar[str] = "discriminative"
    modes: ClassVar[tuple[str, ...]] = ("discriminative",)

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
            mm_encoder_outputs: features of the media in place of their pixels; see ``VisionFeatureCache.outputs``.
            dim: keep the first ``dim`` numbers; the checkpoint's own when None.
            return_dict: accepted for compatibility; the output is always a :class:`UmeOutput`.

        Raises:
            ValueError: no ``input_ids``: a pipeline that hands over pixels alone has no prompt, and so no vector.
        """
        if input_ids is None:
            raise ValueError(
                "a forward needs input_ids: a picture is embedded within its prompt, which pipelines of pictures alone "
                '("image-feature-extraction") do not make; use model.encode([{"image": picture}], '
                "processor=processor), or SentenceTransformer(folder, trust_remote_code=True).encode([picture])"
            )
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
        max_new_tokens: int | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        temperature: float | None = None,
        top_p: float | None = None,
        thoughts: Any = None,
        seed: int | None = None,
        kappa: float | None = None,
        budget: Any = None,
        strategy: Any = None,
        return_details: bool = False,
    ) -> Any:
        """Embed items, without dropout whatever mode the model is in.

        Args:
            items: one item or a sequence of items: ``str``, a PIL image, or a dict of text, image(s), video,
                document, instruction.
            processor: the checkpoint's processor.
            role: None, ``"query"`` or ``"document"``: default instruction per side.
            instruction: replaces the role's default instruction.
            mode: one of ``modes``; the checkpoint's default when None. ``"discriminative"`` embeds at once,
                ``"generative"`` thinks first, ``"both"`` gives both from one prefill, ``"adaptive"`` thinks of the
                items for which it seems to pay.
            dim: keep the first ``dim`` numbers.
            batch_size: most rows of a forward; fewer where they are long, or memory does not hold them.
            max_new_tokens: most tokens of a thought; the checkpoint's when None.
            num_samples: thoughts per item, drawn with temperature 1 unless told otherwise.
            reduce: ``"mean"`` of the thoughts' vectors, the ``"first"``, or None for all of them.
            temperature: None is greedy for one sample and 1 for several; 0 is always greedy.
            top_p: draw from the fewest tokens that hold this much probability.
            thoughts: one for each item, which is then embedded with it in one forward and writes none: a text
                ``<think>...</think><answer>...``, a pair ``(thought, answer)``, or ids of tokens; None for an item
                that is to think itself. With ``num_samples``, each is a list of so many.
            seed: makes drawing reproducible: an item's thoughts then depend on the seed and its index alone.
            kappa: of the adaptive mode: an item is thought about if p(reason) is over it; the checkpoint's when None.
            budget: of the adaptive mode, in place of kappa: average thought tokens per item, which kappa is chosen for
                as it goes; or a :class:`Budget`, which keeps its account over several calls.
            strategy: of the adaptive mode: what decides, and reasons: ``"policy"``, ``"probe"`` or a
                :class:`Strategy`; the checkpoint's when None.
            return_details: an :class:`Encoded` with thoughts, cuts and costs instead of the vectors alone.

        Returns:
            float32 ``[n, d]`` on the model's device, in the items' order; ``[n, k, d]`` for ``reduce=None``; with
            ``mode="both"`` a dict of ``"discriminative"`` and ``"generative"``.

        Raises:
            DegenerateVectorError: a vector is zero, constant or not finite.
            MemoryError: an item does not fit even alone.
        """
        options = EncodeOptions.of(
            self,
            mode=mode,
            dim=dim,
            num_samples=num_samples,
            reduce=reduce,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            thoughts=thoughts,
            kappa=kappa,
            budget=budget,
            strategy=strategy,
        )
        whole_number("batch_size", batch_size)
        listed: Sequence[Any] = items if isinstance(items, (list, tuple)) else [items]
        result = Encoded.empty(options, len(listed), self.dim, self.device)
        rows = processor.prepare_all(
            listed,
            role=role,
            instruction=instruction,
            mode=options.mode,
            thoughts=thoughts,
            num_samples=num_samples,
            max_new_tokens=options.most_tokens,
        )
        tokens = default_tokens(self.device) * options.budget_factor
        budget = TokenBudget(tokens, self.device, batch_size)
        result.truncated = [row.cut_tokens for row in rows]
        collator = Collator(processor, self.device)
        options.begin(len(rows))
        with evaluating(self):
            for batch in encode_batches(self, list(enumerate(rows)), options, budget, collator):
                if batch.errors:
                    raise batch.errors[0][1]
                result.add(batch)
        result.finish(budget)
        return result if return_details else result.embeddings
