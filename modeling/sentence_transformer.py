"""The sentence-transformers module of checkpoints that stock modules cannot express.

Everything that sentence-transformers may hand over (texts, pictures, dicts, chat messages, in any mix) becomes one
form, our items, before it is rendered; so a batch cannot be read in another way than its rows alone. This file and
``sentence_transformer_inputs`` alone import sentence_transformers here, and no file that ``AutoModel`` reaches imports
them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoProcessor

from .evaluating import evaluating
from .pooling import check_vectors
from .sentence_transformer_inputs import MODALITIES, item_of, messages_of, per_row, thought_of
from .settings import UmeSettings, expressible

_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pooling_slots",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)


@dataclass
class UmeCost:
    """What a call of ``encode`` cost.

    Attributes:
        items: inputs that were embedded.
        reasoned: of these, with a thought.
        thought_tokens: of all thoughts.
        seconds: in the model.
    """

    items: int = 0
    reasoned: int = 0
    thought_tokens: int = 0
    seconds: float = 0.0

    @property
    def invocation_ratio(self) -> float:
        return self.reasoned / max(self.items, 1)

    @property
    def tokens_per_item(self) -> float:
        return self.thought_tokens / max(self.items, 1)

    @property
    def seconds_per_item(self) -> float:
        return self.seconds / max(self.items, 1)

    def add(self, tokens: Sequence[int | None], seconds: float) -> None:
        """A batch: tokens of each thought, None where there is none."""
        thoughts = [count for count in tokens if count is not None]
        self.items += len(tokens)
        self.reasoned += len(thoughts)
        self.thought_tokens += sum(thoughts)
        self.seconds += seconds


class UmeTransformer(InputModule):
    """Input and embedding module in one: ``modules.json`` names it alone.

    Args:
        model: a composed model of this checkpoint's kind.
        processor: the checkpoint's processor.
    """

    save_in_root: bool = True
    forward_kwargs: ClassVar[set[str]] = {  # type: ignore[misc]
        "mode",
        "max_new_tokens",
        "instruction",
        "kappa",
        "budget",
    }

    def __init__(self, model: nn.Module, processor: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.processor = processor
        # Since a call of encode began: whether a warning has told of cut texts, what decides, and what it cost.
        self._told_cuts = False
        self._decider: tuple[Any, Any] | None = None
        self.cost = UmeCost()

    # ---- inputs to vectors --------------------------------------------------------------------------------------

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        *,
        instruction: str | None = None,
        mode: str | None = None,
        max_new_tokens: int | None = None,
        kappa: float | None = None,
        budget: Any = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Inputs to features.

        Args:
            inputs: each a ``str``, a PIL image, a dict item, a chat message or a list of them. A ``str`` is what
                sentence-transformers takes it for in every folder: a picture or a video where it is an existing
                file's path, a URL or a data URI of one, else text. ``{"text": ...}`` is always text. A dict may hold a
                ``thought`` beside its item, in modes that think: it is embedded with it, and writes none. All inputs
                of a batch have one, or none.
            prompt: sentence-transformers' prompt (``encode_query``, ``prompt_name`` ...): becomes the instruction.
            instruction: replaces the prompt; an input's own instruction wins over both.
            mode, max_new_tokens, kappa, budget: see :meth:`forward`.
            task: ``"query"`` or ``"document"``: whose default instruction is used where there is no prompt.
            kwargs: none is known; sentence-transformers' ``max_length`` only shortens.

        Raises:
            ItemError: an input cannot be embedded.
            ValueError: an impossible mode or argument.
        """
        mode = self._mode(mode, max_new_tokens, kappa, budget)
        max_length = kwargs.pop("max_length", None)
        if kwargs:
            raise ValueError(
                f"unknown arguments {sorted(kwargs)}; known are {', '.join(sorted(self.forward_kwargs))}"
            )
        processor = self.processor
        if max_length is not None:
            processor = processor.with_max_length(min(max_length, self.max_seq_length))
        thoughts = [thought_of(one) for one in inputs]
        given = any(thought is not None for thought in thoughts)
        if given and mode != "generative":
            raise ValueError("a thought needs a mode that thinks always: give mode='generative'")
        if given and None in thoughts:
            raise ValueError(
                "some inputs of a batch have a thought: give one to every input or to none, or encode with batch_size=1"
            )
        if instruction is None:
            instruction = prompt
        role = task if task in ("query", "document") else None
        try:
            rows = processor.prepare_all(
                [
                    processor.item_of_messages(messages_of(one)) if messages_of(one) else item_of(one)
                    for one in inputs
                ],
                role=role,
                instruction=instruction,
                mode=mode,
                thoughts=thoughts if given else None,
                max_new_tokens=self.model.decoding(max_new_tokens=max_new_tokens).max_new_tokens
                if given
                else None,
                tell_cuts=not self._told_cuts,
            )
        except ValueError as error:  # the processor's ItemError: it comes in a file that is none of ours here
            index = getattr(error, "index", None)
            if index is None:
                raise
            # encode has sorted the inputs and hands over batches: the number alone would blame another one
            shown = reprlib.repr(inputs[index])
            raise type(error)(f"{error} (counted in one batch of sentence-transformers: {shown})") from error
        self._told_cuts = self._told_cuts or any(row.cut_tokens for row in rows)
        lengths = [len(ids) for row in rows for ids in row.given]
        if given:
            rows = [whole for row in rows for whole in row.with_thoughts(self.model.thought_tokens.gen_emb)]
        features = dict(processor.collate(rows, padding_side=None if mode == "discriminative" else "left"))
        if given:
            features["thought_tokens"] = torch.tensor(lengths)
        # Losses that split a batch must know whose the pictures are; see _create_minibatch.
        features["num_images_per_sample"] = torch.tensor([len(row.images) for row in rows])
        features["num_videos_per_sample"] = torch.tensor([len(row.videos) for row in rows])
        intervals = features.pop("second_per_grid_ts", None)
        if intervals is not None:
            features["seconds_of_sample"] = per_row(intervals, features["num_videos_per_sample"])
        return features

    def forward(  # type: ignore[override]
        self,
        features: dict[str, Any],
        mode: str | None = None,
        max_new_tokens: int | None = None,
        instruction: str | None = None,
        kappa: float | None = None,
        budget: Any = None,
    ) -> dict[str, Any]:
        """Add ``sentence_embedding`` (float32 ``[B, d]``) to the features.

        Args:
            features: from :meth:`preprocess`, or a part of its rows.
            mode: None for the checkpoint's default; must be one that its kind has. A thought can't be trained
                through: while training, the direct embedding comes out of either mode.
            max_new_tokens: length of a thought, for modes that think.
            instruction: used by :meth:`preprocess` alone.
            kappa: of the adaptive mode: an input is thought about if p(reason) is over it; the checkpoint's when None.
            budget: of the adaptive mode, in place of kappa: average thought tokens of the inputs of a call of
                ``encode``; see ``AutoModel.encode``.

        In modes that think, ``reasoned`` (bool ``[B]``) and ``thought_tokens`` (int64 ``[B]``) are added, too, and
        :attr:`cost` sums up a call.
        """
        mode = self._mode(mode, max_new_tokens, kappa, budget)
        batch = {name: features[name] for name in _MODEL_INPUTS if name in features}
        if "seconds_of_sample" in features and "video_grid_thw" in batch:
            seconds, count = features["seconds_of_sample"], features["num_videos_per_sample"]
            real = torch.arange(seconds.shape[1], device=seconds.device) < count.unsqueeze(1)
            batch["second_per_grid_ts"] = seconds[real]
        if self.training:
            return {**features, "sentence_embedding": self.model(**batch).embeddings}
        began = perf_counter()
        if mode != "discriminative" and "thought_tokens" in features:
            embeddings, tokens = self._embed_given(batch), features["thought_tokens"].tolist()
        else:
            embeddings, tokens = self._embed(batch, mode, max_new_tokens, kappa, budget)
        check_vectors(embeddings)
        self.cost.add(tokens, perf_counter() - began)
        out = {**features, "sentence_embedding": embeddings}
        if mode != "discriminative":
            out["reasoned"] = torch.tensor([count is not None for count in tokens])
            out["thought_tokens"] = torch.tensor([count or 0 for count in tokens])
        return out

    def _embed(
        self, batch: dict[str, Tensor], mode: str, max_new_tokens: int | None, kappa: Any, budget: Any
    ) -> tuple[Tensor, list[int | None]]:
        """Vectors of a batch, and how many tokens were thought for each; None where there was no thought."""
        if mode == "discriminative":
            with evaluating(self.model):
                vectors = self.model(**batch).embeddings
            return vectors, [None] * len(vectors)
        how = {
            "decoding": self.model.decoding(max_new_tokens=max_new_tokens),
            "vocabulary": len(self.tokenizer),
        }
        if mode == "adaptive":
            if self._decider is None or self._decider[0] != (kappa, budget):
                self._decider = (kappa, budget), self.model.decider_of(kappa, budget)
            found = self.model.embed_adaptively(batch, decider=self._decider[1], **how)
            counts = zip(found.tokens, found.reasoned, strict=True)
            return found.vectors, [tokens if reasoned else None for tokens, reasoned in counts]
        found = self.model.embed(batch, mode, **how)
        return found.generated, [len(row[0].thought) for row in found.rollouts]

    def _embed_given(self, batch: dict[str, Tensor]) -> Tensor:
        """Vectors after thoughts that are in the batch already."""
        with evaluating(self.model):
            vectors: Tensor = self.model(**batch).generated_embeddings
        return vectors

    def _mode(
        self, mode: str | None, max_new_tokens: int | None, kappa: float | None = None, budget: Any = None
    ) -> str:
        known = [one for one in self.model.modes if one != "both"]  # one vector per input
        if mode is not None and mode not in known:
            kind = self.model.settings.kind
            raise ValueError(f"mode={mode!r}: this checkpoint is {kind}, and here it has {', '.join(known)}")
        mode = mode or self.model.settings.mode or known[0]
        if max_new_tokens is not None and mode == "discriminative":
            raise ValueError("max_new_tokens needs a mode that thinks, 'discriminative' does not")
        if mode != "adaptive" and (kappa is not None or budget is not None):
            raise ValueError(f"kappa and budget are of mode='adaptive', and this is {mode!r}")
        return mode

    def train(self, mode: bool = True) -> UmeTransformer:
        """As of every module. sentence-transformers begins each ``encode`` with ``eval()`` and hands over its batches
        one by one, the longest first: of those of a call, the first that has cut texts is told of, one account is kept
        of a budget, and one of costs."""
        if not mode:
            self._told_cuts, self._decider, self.cost = False, None, UmeCost()
        return super().train(mode)

    # ---- what sentence-transformers asks ------------------------------------------------------------------------

    @property
    def modalities(self) -> list[Any]:  # type: ignore[override]
        return list(MODALITIES)

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Most tokens of an input; only its text is ever cut. Saved with the processor's settings."""
        return self.processor.settings.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.processor.settings = replace(self.processor.settings, max_length=value)

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.model.dim

    def get_config_dict(self) -> dict[str, Any]:
        return {"role": self.model.settings.kind, "max_seq_length": self.max_seq_length}

    # ---- loading and saving -------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> UmeTransformer:
        """Load model and processor of a checkpoint; see ``sentence_transformers.base.modules.Module.load``."""
        if backend != "torch":
            raise ValueError(f"backend={backend!r}: this checkpoint runs on torch only")
        hub = {
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        hub = {name: value for name, value in hub.items() if value not in (None, "", False)}
        config = AutoConfig.from_pretrained(
            model_name_or_path, **{**hub, **(config_kwargs or {}), "trust_remote_code": False}
        )
        settings = UmeSettings.from_config(config)
        kind = settings.kind
        if kind == "reranker":  # stock modules are written where they give equal scores, this one where not
            able, reason = expressible(settings, "sentence-transformers", config.model_type)
            reason = "its adapter is not merged (`umekit export` merges it into a folder)" if able else reason
            raise ValueError(
                f"a CrossEncoder cannot run {model_name_or_path}: {reason}; use umekit.load(...).rerank, or "
                "AutoModel with trust_remote_code=True and its rerank(query, candidates, processor=processor)"
            )
        # Where this very file is the checkpoint's, its code has been trusted already.
        trusted = trust_remote_code or __name__.startswith("transformers_modules.")
        arguments = {**hub, "trust_remote_code": trusted, **(processor_kwargs or {})}
        processor = AutoProcessor.from_pretrained(model_name_or_path, **arguments)
        if getattr(processor, "item_of_messages", None) is None:
            raise ValueError(f"{model_name_or_path} has a processor of its own: pass trust_remote_code=True")
        arguments = {**hub, "trust_remote_code": trusted, **(model_kwargs or {})}
        model = AutoModel.from_pretrained(model_name_or_path, config=config, **arguments)
        if getattr(model, "kind", None) != kind:
            raise ValueError(
                f"{model_name_or_path} is of the role {kind!r}, and its auto_map names {type(model).__name__}: "
                "sentence-transformers cannot run it"
            )
        return cls(model, processor)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write a complete checkpoint in the backbone's native layout (always safetensors)."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
