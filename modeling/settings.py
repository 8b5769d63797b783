"""What a checkpoint says about itself: the ``ume`` block of ``config.json``.

Everything that changes a vector and that the *model* must know stands here and is saved with the weights; the
processor's half (template, pixels, frames) is in ``processor_config.json``. The block has a schema number, so that
an old umekit refuses a newer checkpoint instead of reading it wrongly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

SCHEMA = 1
BLOCK = "config.json: ume"
FilledRows = dict[
    str, int | list[int]
]  # token to row, or to row and source; see `UmePreTrainedModel.fill_rows`
ADAPTIVE_ONLY = ("kappa", "strategy")  # what is decided by: vectors of any choice can be compared
FILLED_ROWS = "filled_rows"  # entry of the block of an adapter folder, see `filled_rows`
BASE_WEIGHTS = "base_weights"  # the same: `weights_hash` of what the adapter was trained on

Kind = Literal["discriminative", "generative", "adaptive", "reranker"]
KINDS: tuple[str, ...] = ("discriminative", "generative", "adaptive", "reranker")
DEFAULT_MODES: dict[str, tuple[str, ...]] = {  # a kind's own first
    "discriminative": ("discriminative",),
    "generative": ("generative", "discriminative"),
    "adaptive": ("adaptive", "generative", "discriminative"),
    "reranker": (),
}

# Families whose linear-attention layers stay causal whatever mask they are given.
LINEAR_ATTENTION_FAMILIES = frozenset({"qwen3_5", "qwen3_5_moe", "qwen3_next"})
# Families that write a video's times out, or count its positions in seconds.
TIMED_FAMILIES = frozenset({"qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"})
DEEPSTACK_FAMILIES = frozenset({"qwen3_vl", "qwen3_vl_moe"})


class UmeSettingsError(ValueError):
    """The ``ume`` block of a config cannot be used; the message says which entry and what to do."""


@dataclass(frozen=True)
class UmeSettings:
    """Settings of one checkpoint.

    Attributes:
        kind: what the checkpoint is for; picks the AutoModel class. In ``config.json`` it is the ``role``.
        attention: ``"causal"``, or ``"bidirectional"`` for every token seeing every other one (U-MARVEL);
            ``"bidirectional_if_padded"`` is U-MARVEL's published defect: causal in a batch without any padding.
        positions: ``"mrope"`` for the backbone's own 3-D positions, ``"1d"`` for 0..L-1 on all axes
            (RzenEmbed, U-MARVEL, LamRA; GME).
        deepstack: whether Qwen3-VL's DeepStack features reach the language model (U-MARVEL drops them).
        pooling: which tokens the processor marks: ``"last"`` (one slot at the end), ``"token"`` (one slot at a
            special token elsewhere), ``"mean"`` (all tokens but the instruction's). The model only averages slots;
            the word is for engines that have no slots.
        normalize: whether vectors are scaled to length one.
        dim: keep only the first ``dim`` numbers (Matryoshka); None keeps all.
        tokens: ids that the model itself must know while generating (thought, ``<gen_emb>``, actions, answers).
        default_mode: how items are embedded where the caller names no mode; None for the kind's own,
            ``"discriminative"`` where a checkpoint can think and seldom should.
        max_new_tokens: most tokens of a thought where the caller says nothing (generative kind).
        kappa: p(reason) over which an item is thought about where the caller says nothing (adaptive kind).
        strategy: what decides (adaptive kind): ``"policy"``, the tokens ``<direct>`` and ``<reason>``; or ``"probe"``,
            the linear probe that lies beside the weights. See ``strategies``.
        thought_end: ``"forced"``: the vector is the state of the first ``<gen_emb>``, which a thought without one is
            given; ``"official"``: UME-R1's published loop, see ``reasoning.think``.
    """

    kind: Kind = "discriminative"
    attention: Literal["causal", "bidirectional", "bidirectional_if_padded"] = "causal"
    positions: Literal["mrope", "1d"] = "mrope"
    deepstack: bool = True
    pooling: Literal["last", "token", "mean"] = "last"
    normalize: bool = True
    dim: int | None = None
    tokens: dict[str, int | list[int]] = field(default_factory=dict)
    default_mode: str | None = None
    max_new_tokens: int = 8192
    thought_end: Literal["forced", "official"] = "forced"
    kappa: float = 0.5
    strategy: Literal["policy", "probe"] = "policy"

    def __post_init__(self) -> None:
        allowed = {
            "kind": KINDS,
            "attention": ("causal", "bidirectional", "bidirectional_if_padded"),
            "positions": ("mrope", "1d"),
            "pooling": ("last", "token", "mean"),
            "thought_end": ("forced", "official"),
            "strategy": ("policy", "probe"),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in values:
                raise UmeSettingsError(f"{BLOCK}.{_stored(name)} is {_shown(value)}; use one of {values}")
        known = DEFAULT_MODES[self.kind]
        if self.default_mode is not None and self.default_mode not in known:
            raise UmeSettingsError(
                f"{BLOCK}.default_mode is {_shown(self.default_mode)}; the {self.kind} kind knows "
                f"{', '.join(known) or 'none'}, or null"
            )
        for name in ("deepstack", "normalize"):
            if type(getattr(self, name)) is not bool:
                raise UmeSettingsError(f"{BLOCK}.{name} is {_shown(getattr(self, name))}; use true or false")
        if self.dim is not None and not _whole(self.dim, 1):
            raise UmeSettingsError(f"{BLOCK}.dim is {_shown(self.dim)}; use a positive whole number or null")
        if not _whole(self.max_new_tokens, 1):
            raise UmeSettingsError(
                f"{BLOCK}.max_new_tokens is {_shown(self.max_new_tokens)}; use a positive whole number"
            )
        if type(self.kappa) not in (int, float) or not 0 <= self.kappa <= 1:
            raise UmeSettingsError(f"{BLOCK}.kappa is {_shown(self.kappa)}; use a number from 0 to 1")
        if not isinstance(self.tokens, dict):
            raise UmeSettingsError(f"{BLOCK}.tokens is {_shown(self.tokens)}; use names with token ids")
        for name, ids in self.tokens.items():
            if not all(_whole(one, 0) for one in (ids if isinstance(ids, list) else [ids])):
                raise UmeSettingsError(f"{BLOCK}.tokens.{name} is {_shown(ids)}; use token ids")

    @classmethod
    def from_config(cls, config: Any) -> UmeSettings:
        """Read ``config.ume``; defaults where a published checkpoint has none.

        Raises:
            UmeSettingsError: schema newer than this code, or an unknown or impossible entry.
        """
        stored = getattr(config, "ume", None)
        if stored is not None and not isinstance(stored, dict):
            raise UmeSettingsError(f"{BLOCK} is {_shown(stored)}; an object is needed")
        block = dict(stored or {})
        schema = block.pop("schema", SCHEMA)
        if not _whole(schema, 1) or schema > SCHEMA:
            raise UmeSettingsError(
                f"{BLOCK}.schema is {_shown(schema)}, this code reads up to {SCHEMA}: update umekit"
            )
        for entry in (FILLED_ROWS, BASE_WEIGHTS):  # of the weights of an adapter's base, no settings
            block.pop(entry, None)
        names = {_stored(f.name): f.name for f in fields(cls)}
        unknown = set(block) - set(names)
        if unknown:
            raise UmeSettingsError(f"{BLOCK} has entries that this version does not know: {sorted(unknown)}")
        settings = cls(**{names[entry]: value for entry, value in block.items()})
        settings.check_backbone(getattr(config, "model_type", ""))
        return settings

    def check_backbone(self, model_type: str) -> None:
        """Raise where the backbone family cannot do what the settings ask."""
        if self.attention != "causal" and model_type in LINEAR_ATTENTION_FAMILIES:
            raise UmeSettingsError(
                f"{model_type} has linear-attention layers, which stay causal: "
                "attention='bidirectional' would be half true; use attention='causal'"
            )

    @property
    def mode(self) -> str | None:
        """How items are embedded where the caller names no mode; None for a kind that embeds nothing."""
        return self.default_mode or next(iter(DEFAULT_MODES[self.kind]), None)

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written into ``config.json``."""
        left_out = () if self.kind == "adaptive" else ADAPTIVE_ONLY
        own = {_stored(name): value for name, value in asdict(self).items() if name not in left_out}
        return {"schema": SCHEMA, **own}


def _stored(name: str) -> str:
    """Entry of the block that holds a setting: what a checkpoint is has always been called its role there."""
    return "role" if name == "kind" else name


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**31


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def filled_rows(config: Any) -> FilledRows:
    """Tokens and rows (with sources, of copies) that an adapter folder's config says were filled when it was trained.

    The files of the base have other numbers there, so whoever puts the adapter on them fills these rows again.

    Raises:
        UmeSettingsError: the entry is not tokens with rows behind the first.
    """
    block = getattr(config, "ume", None)
    found = block.get(FILLED_ROWS, {}) if isinstance(block, dict) else {}
    if not isinstance(found, dict) or not all(_is_row(row) for row in found.values()):
        raise UmeSettingsError(f"{BLOCK}.{FILLED_ROWS} is {_shown(found)}; it names tokens and their rows")
    return dict(found)


def _is_row(row: Any) -> bool:
    """A row behind the first, or one and the row that it is a copy of."""
    numbers = row if isinstance(row, list) and len(row) == 2 else [row]
    return all(type(number) is int and number >= 0 for number in numbers) and numbers[0] >= 1


def expressible(settings: UmeSettings, target: str, model_type: str = "") -> tuple[bool, str]:
    """Whether ``target`` can give the same vectors as these settings without any of our code.

    Of a checkpoint that can think and by default embeds at once that is said of its direct vectors; but not of
    sentence-transformers, whose ``encode`` would lose the other modes.

    Said of texts and pictures; what stock code does otherwise is in the reason of a True, too. Videos differ where
    their time is written out or in the positions (Qwen2.5-VL, Qwen3-VL, Qwen3.5): transformers 5.23 takes frames
    without metadata for 24 a second, and wraps the steps of Qwen3-VL's videos twice; sentence-transformers passes no
    metadata of frame lists.

    Args:
        settings: settings of the checkpoint.
        target: ``"sentence-transformers"`` (native Transformer + Pooling + Normalize), ``"vllm"`` or
            ``"transformers"`` (native class and last-token pooling by hand).
        model_type: the backbone's ``model_type``.

    Returns:
        ``(True, limits)`` or ``(False, reason)``.
    """
    if target not in ("sentence-transformers", "vllm", "transformers"):
        raise ValueError(f"unknown target {target!r}: use 'sentence-transformers', 'vllm' or 'transformers'")
    pairs = settings.kind == "reranker" and target == "sentence-transformers"  # its CrossEncoder
    if settings.mode != "discriminative" and not pairs:
        return False, f"the {settings.kind} kind needs umekit's own loop"
    if settings.attention == "bidirectional_if_padded":
        return False, "attention that depends on the batch has no form outside umekit"
    if settings.positions == "1d":
        return False, "1-D positions have no form outside umekit"
    if not settings.deepstack and model_type in DEEPSTACK_FAMILIES:
        return False, "dropped DeepStack features have no form outside umekit"
    if settings.pooling == "mean":
        return False, "a mean without the instruction's tokens needs a span per row"
    if settings.pooling == "token":
        return False, "the pooled token is not the last one"
    if settings.dim is not None and target != "transformers":
        return False, "stock pooling does not truncate before it normalises"
    if settings.attention == "bidirectional" and target == "vllm":
        return False, "vLLM runs these backbones with causal attention"
    if not settings.normalize and target == "vllm":
        return False, "vLLM normalises embeddings"
    if len(DEFAULT_MODES[settings.kind]) > 1 and target == "sentence-transformers":
        return False, "only its direct vectors have a form there (`umekit export --role discriminative`)"
    return True, _limits(target, model_type)


def _limits(target: str, model_type: str) -> str:
    """What stock code does otherwise than ours, although the settings have a form there."""
    limits = ["a text over the limit is not cut as ours is", "pictures are resized by torchvision"]
    if model_type in TIMED_FAMILIES:
        limits.append("a list of frames counts as 24 a second")
    if target == "sentence-transformers":
        limits.append("a clip's path needs torchcodec")
        limits.append("the keys 'images', 'document', 'page' and 'instruction' are refused")
    return ", ".join(limits)
