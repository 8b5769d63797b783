"""What a preset is: one published system as data, and how it becomes a model's and a processor's settings.

A preset is used once, while a published checkpoint is loaded; what it says is then saved with the checkpoint, which
needs it no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ...modeling.discriminative import UmeForDiscriminativeEmbedding
from ...modeling.reranker import UmeForReranking
from ...modeling.settings import UmeSettings
from ...processing.processor import UmeProcessor
from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from ...processing.tokenizing import PoolingRule

COMPAT = (None, "official")
# What a prompt alone makes of a checkpoint.
_KINDS: dict[str, Any] = {"discriminative": UmeForDiscriminativeEmbedding, "reranker": UmeForReranking}


class PresetError(ValueError):
    """A preset cannot be had: unknown name, another backbone family, or nothing it could be compatible with."""


@dataclass(frozen=True)
class AddedToken:
    """A token that the system's loader adds to the published tokenizer.

    Attributes:
        text: the token.
        row: its row of the embedding matrix: ``"spare"``: the published one at that id, trained or not;
            ``"mean"``: the mean of all rows before it (what growing a matrix gives since transformers 4.46);
            ``"copy"``: a copy of the row of another token, ``of``, in a matrix that does not grow.
        of: that token.
    """

    text: str
    row: Literal["spare", "mean", "copy"] = "spare"
    of: str = ""


@dataclass(frozen=True)
class Difference:
    """Where our default is not what the official code does.

    Attributes:
        official: what the official code does, and so ``compat="official"``.
        default: what we do instead.
        why: reason.
    """

    official: str
    default: str
    why: str


@dataclass(frozen=True)
class Traces:
    """What a system leaves in the files of its checkpoints and others do not; see ``choosing``.

    Attributes:
        tokens: special tokens of its tokenizers: of those that any system leaves, a checkpoint has exactly these.
        classes: beginnings of the class that ``config.json`` names (``architectures``).
        phrases: words of its prompt in templates and prompts, as they stand in Jinja and in JSON.
    """

    tokens: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """One published system.

    Attributes:
        name: what ``umekit.load(preset=...)`` is told.
        repos: Hub repositories whose checkpoints need it.
        families: ``model_type`` of its backbones.
        model: the model's settings.
        processor: ``(model_type, image processor)`` to the processor's settings.
        tokens: tokens to add, in order.
        model_tokens: entries of ``config.ume.tokens`` as tokens of the tokenizer; a name or several.
        official: changes of ``compat="official"``: the settings of both halves to those that reproduce defects.
        differences: what that changes, for the documentation.
        sources: settings' names to where they are from.
        fixture: name of the system in published fixtures, and their array of vectors to compare with.
        spare_keys: weights of the published files that embedding does not need; they give the system away.
        traces: what else gives it away.
        base: name of the preset that it is a variant of.
    """

    name: str
    repos: tuple[str, ...]
    families: tuple[str, ...]
    model: UmeSettings
    processor: Callable[[str, Any], ProcessorSettings]
    tokens: tuple[AddedToken, ...] = ()
    model_tokens: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    official: Callable[[UmeSettings, ProcessorSettings], tuple[UmeSettings, ProcessorSettings]] | None = None
    differences: tuple[Difference, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    fixture: tuple[str, str] = ("", "")
    spare_keys: tuple[str, ...] = ()
    traces: Traces = field(default_factory=Traces)
    base: str = ""

    def open(
        self, source: str, model_type: str, hub: Mapping[str, Any], compat: str | None = None
    ) -> tuple[UmeSettings, UmeProcessor, tuple[AddedToken, ...]]:
        """Settings of the model, the processor, and the tokens that the published tokenizer lacks.

        Raises:
            PresetError: the checkpoint is of another family, or ``compat`` is unknown.
        """
        if compat not in COMPAT:
            raise PresetError(f"compat is {compat!r}; use None or 'official'")
        if model_type not in self.families:
            raise PresetError(
                f"the preset {self.name} is for {' and '.join(self.families)}, this checkpoint is {model_type}"
            )
        image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
        known = tokenizer.get_vocab()
        missing = tuple(token for token in self.tokens if token.text not in known)
        tokenizer.add_tokens([token.text for token in missing])
        model, settings = self.model, self.processor(model_type, image_processor)
        if compat == "official" and self.official is not None:
            model, settings = self.official(model, settings)
        ids = {name: _ids(tokenizer, wanted) for name, wanted in self.model_tokens.items()}
        model = replace(model, tokens={**model.tokens, **ids})
        return model, UmeProcessor(image_processor, tokenizer, None, settings), missing

    def variant(
        self,
        name: str,
        source: str,
        *,
        template: str | None = None,
        pooling: PoolingRule | None = None,
        change: Callable[[ProcessorSettings], ProcessorSettings] = lambda settings: settings,
        **model: Any,
    ) -> Preset:
        """The same system under another prompt, such as one that it was trained with.

        Args:
            name: of the variant; no repository is known by it.
            source: where the prompt is from.
            template: the chat template (Jinja); None keeps the system's.
            pooling: which tokens carry the embedding; None keeps the system's.
            change: of the processor's settings, beside that.
            model: entries of the model's settings that differ.
        """

        def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
            own = self.processor(model_type, image_processor)
            prompt = own.prompt if template is None else PromptSettings(template=template)
            return change(replace(own, prompt=prompt, pooling=pooling or own.pooling))

        if pooling is not None:
            model["pooling"] = pooling.kind
        return replace(
            self,
            name=name,
            base=self.base or self.name,
            repos=(),
            model=replace(self.model, **model),
            processor=processor,
            sources={**self.sources, "template": source},
        )

    def put_on(self, model: Any, processor: Any, **changes: Any) -> tuple[Any, Any]:
        """Any checkpoint under this system's prompt: the same weights, tokenizer and pixels, as ``(model, processor)``.

        A reranker's prompt makes a reranker of it, which still has to learn to answer; that of a system that embeds at
        once makes one of it that does, too. A probe that decides is of one prompt and does not come along.

        What is trained so is saved so, and served as it was trained; the published systems mostly train and serve
        with different prompts, and pay for it.

        Args:
            model: any ``UmeFor...`` model; its backbone is shared with the result.
            processor: its processor.
            changes: entries of ``UmeSettings`` that are to be other than the system's.

        Raises:
            ValueError: the tokenizer lacks a token of the prompt.
            UmeSettingsError: the backbone cannot be used so.
        """
        known = processor.tokenizer.get_added_vocab()
        lost = [token.text for token in self.tokens if token.text not in known]
        if lost:
            raise ValueError(
                f"the prompt {self.name!r} needs the tokens {lost}, which this tokenizer lacks: load the backbone "
                f"with a preset that adds them (preset: {self.base or self.name})"
            )
        wanted = self.processor(model.config.model_type, processor.image_processor)
        own = {name: getattr(self.model, name) for name in ("attention", "positions", "pooling")}
        own |= {"strategy": UmeSettings.strategy}
        kind: Any = _KINDS.get(self.model.kind, type(model))
        if kind is not type(model):
            own |= {"kind": kind.kind, "default_mode": None}
        if kind is UmeForReranking:
            answers = {name: _ids(processor.tokenizer, token) for name, token in self.model_tokens.items()}
            own |= {"tokens": {**model.settings.tokens, **answers}, "dim": None}
        settings = replace(model.settings, **(own | changes))
        settings.check_backbone(model.config.model_type)
        changed = model.with_settings(settings, kind)
        names = ["prompt", "pooling", "blank_image"]
        names += ["pairs", "truncation", "empty_items"] if kind is UmeForReranking else []
        prompt = {name: getattr(wanted, name) for name in names}
        return changed, processor.with_settings(**prompt)


def fill_rows(model: Any, tokenizer: Any, tokens: tuple[AddedToken, ...]) -> None:
    """Set the rows of tokens that a preset has added; where it has no spare rows the matrix grows, but not for copies.

    The model remembers the rows that its files lack, and the folder of an adapter that is trained on it records them.
    """
    published = model.get_input_embeddings().weight.shape[0]
    ids = {token.text: int(tokenizer.convert_tokens_to_ids(token.text)) for token in tokens}
    means = [token for token in tokens if token.row == "mean" or ids[token.text] >= published]
    rows: dict[str, Any] = {token.text: ids[token.text] for token in means}  # never a random row
    rows |= {t.text: [ids[t.text], _single(tokenizer, t.of)] for t in tokens if t.row == "copy"}
    model.fill_rows(rows)


def repo_of(source: str) -> str:
    """Hub repository of a source: itself, or that of a folder in the Hub's cache; lower case."""
    cached = re.search(r"models--([^/\\]+?)--([^/\\]+)", source)
    name = f"{cached[1]}/{cached[2]}" if cached else source
    return name.strip("/").lower()


def _ids(tokenizer: Any, wanted: str | tuple[str, ...]) -> int | list[int]:
    if isinstance(wanted, tuple):
        return [_single(tokenizer, one) for one in wanted]
    return _single(tokenizer, wanted)


def _single(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise PresetError(f"{text!r} is {len(ids)} tokens of this tokenizer, and must be one")
    return int(ids[0])
