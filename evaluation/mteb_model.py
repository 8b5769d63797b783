"""umekit's models in mteb 2.x: an encoder and a reranker of text, pictures and videos.

Notable: mteb hands over batches; these are taken together in windows, so that items are planned by their tokens and
equal ones encoded once, as everywhere in umekit. A key of a batch is absent where its modality is (mteb#5249).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import mteb
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_implementations import MODEL_REGISTRY
    from mteb.models.model_meta import ModelMeta
    from mteb.types import PromptType
except ImportError as missing:
    raise ImportError("benchmarks of mteb need it: pip install umekit[eval]") from missing

LOCAL = "local-"  # begins the revision of what has no commit
WINDOW = 1024  # items that are encoded together
MODALITIES = ("text", "image", "video")
FRAMES = 8  # of a clip, as MMEB-V2 takes them


class MtebEncoder(AbsEncoder):  # type: ignore[misc]
    """An ``umekit.Encoder`` for ``mteb.evaluate``.

    Args:
        encoder: an ``umekit.Encoder``.
        name: of the model, ``organisation/model``.
        mode: of encoding; None for the checkpoint's.
        frames: of a clip that mteb opens.
        instructions: whether a task's instruction goes with its queries.

    Attributes:
        used: instructions that queries carried so far.
    """

    def __init__(
        self,
        encoder: Any,
        name: str = "umekit/model",
        revision: str | None = None,
        *,
        mode: str | None = None,
        frames: int = FRAMES,
        instructions: bool = True,
    ) -> None:
        self.encoder, self.mode, self.frames, self.instructions = encoder, mode, frames, instructions
        self.used: set[str] = set()
        own = revision or local_revision(encoder, mode, frames, instructions)
        self.mteb_model_meta = model_meta(encoder, name, own)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Vectors [n, d] of mteb's batches, in their order.

        Queries go in as queries, with the task's instruction; passages as documents, with one only where the task has
        one for them; where mteb says neither (classification, clustering), items are queries too.
        """
        role = "document" if prompt_type == PromptType.document else "query"
        instruction = self._instruction(task_metadata, role) if self.instructions else None
        if self.instructions and role == "query":
            self.used.add(instruction or "")
        own: dict[str, Any] = {"role": role, "instruction": instruction, "show_progress": False}
        if self.mode is not None:
            own["mode"] = self.mode
        blocks = [self.encoder.encode(window, **own) for window in _windows(inputs, self.frames)]
        if not blocks:
            return np.zeros((0, self.encoder.dim), dtype=np.float32)
        return np.concatenate(blocks)

    def _instruction(self, task: Any, role: str) -> str | None:
        if role == "query":
            return self.get_instruction(task, PromptType.query) or None
        return (task.prompt.get(PromptType.document.value) or None) if isinstance(task.prompt, dict) else None


class MtebReranker:
    """An ``umekit.Reranker`` as mteb's cross-encoder."""

    def __init__(
        self,
        reranker: Any,
        name: str = "umekit/reranker",
        revision: str | None = None,
        *,
        frames: int = FRAMES,
    ) -> None:
        self.reranker, self.frames = reranker, frames
        self.mteb_model_meta = model_meta(reranker, name, revision or local_revision(reranker, frames))

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Scores [n] in 0..1 of pairs; neighbouring pairs of one query share its reading."""
        scores: list[NDArray[np.float32]] = []
        query: Any = None
        waiting: list[Any] = []

        def score() -> None:
            if waiting:
                scores.append(self.reranker.rerank(query, waiting, show_progress=False))

        for left, right in zip(_items(inputs1, self.frames), _items(inputs2, self.frames), strict=True):
            if waiting and (len(waiting) == WINDOW or not _same(left, query)):
                score()
                waiting = []
            query = left
            waiting.append(right)
        score()
        return np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32)


def model_meta(model: Any, name: str, revision: str | None = None) -> Any:
    """mteb's record of a model: parameters, dimension, length, modalities, loader; a revision of its weights if none is
    given."""
    network, processor = model.model, model.processor
    pairs = not hasattr(model, "dim")
    facts: dict[str, Any] = {
        "similarity_fn_name": None if pairs else "cosine",
        "modalities": list(MODALITIES),
        "loader": _load_reranker if pairs else _load_encoder,
    }
    parameters = sum(weight.numel() for weight in network.parameters())
    return ModelMeta(
        name=name,
        revision=revision or local_revision(model),
        release_date=None,
        languages=None,
        n_parameters=parameters,
        n_embedding_parameters=network.get_input_embeddings().weight.numel(),
        memory_usage_mb=round(sum(w.numel() * w.element_size() for w in network.parameters()) / 2**20, 1),
        max_tokens=getattr(processor.settings, "max_length", None),
        embed_dim=None if pairs else int(model.dim),
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        use_instructions=True,
        training_datasets=None,
        model_type=["cross-encoder" if pairs else "dense"],
        **facts,
    )


def local_revision(model: Any, *settings: Any) -> str:
    """Of a model that has no commit: what its vectors or scores depend on.

    mteb's cache finds a result by name and revision, so that two models, or two modes of one, must not share both.
    """
    facts = json.dumps([model.fingerprint(), *settings], sort_keys=True, default=str)
    return f"{LOCAL}{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def register(path: str, **load_options: Any) -> str:
    """Let ``mteb.get_model`` find a checkpoint of ours by its path or id; returns the name that it has there.

    mteb looks a name up in its own table before it asks the Hub, and this puts it there, for this process.
    """
    import umekit

    name = str(Path(path).resolve()) if Path(path).is_dir() else path
    model = umekit.load(path, **load_options)
    record = model_meta(model, name)
    record = record.model_copy(update={"loader_kwargs": {"load_options": load_options}})
    MODEL_REGISTRY[name] = record
    return name


def _load_encoder(
    name: str, revision: str | None = None, device: str | None = None, **options: Any
) -> MtebEncoder:
    return MtebEncoder(_opened(name, revision, device, options), name, _commit(revision), **options)


def _load_reranker(
    name: str, revision: str | None = None, device: str | None = None, **options: Any
) -> MtebReranker:
    return MtebReranker(_opened(name, revision, device, options), name, _commit(revision), **options)


def _opened(name: str, revision: str | None, device: str | None, options: dict[str, Any]) -> Any:
    import umekit

    options.pop("embed_dim", None)
    own = {"device": device, **options.pop("load_options", {})}
    return umekit.load(name, revision=_commit(revision), **own)


def _commit(revision: str | None) -> str | None:
    return None if revision is None or revision.startswith(LOCAL) else revision


def _windows(inputs: Any, frames: int) -> Iterator[list[Any]]:
    window: list[Any] = []
    for item in _items(inputs, frames):
        window.append(item)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


def _items(inputs: Any, frames: int) -> Iterator[Any]:
    """Items of mteb's batches."""
    features = getattr(inputs.dataset, "features", None) or {}
    if "video" in features:
        from mteb.models.modality_collators import FramesCollator

        inputs.collate_fn = FramesCollator(num_frames=frames)
    for batch in inputs:
        keys = [key for key in ("image", "video", "text") if key in batch]
        if not keys:
            raise ValueError(f"a batch of mteb with nothing that can be embedded: {', '.join(batch)}")
        for values in zip(*(batch[key] for key in keys), strict=True):
            yield {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def _same(left: Any, right: Any) -> bool:
    """Whether two queries are one: the same objects under the same keys, or equal texts."""
    if set(left) != set(right):
        return False
    return all(left[key] is right[key] or (key == "text" and left[key] == right[key]) for key in left)


__all__ = ["MtebEncoder", "MtebReranker", "model_meta", "mteb", "register"]
