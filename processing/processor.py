"""Items in, model inputs out: the processor that ships with every checkpoint.

An item is rendered by the checkpoint's chat template and nothing else; the processor then says, with
``pooling_slots``, which tokens carry the embedding. Works without torchvision on Qwen2-VL, Qwen2.5-VL, Qwen3-VL and
Qwen3.5; ``AutoProcessor.from_pretrained(repo, trust_remote_code=True)`` loads it without umekit.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoTokenizer, BatchFeature

# By its module: as a name of the package, some versions give it only where torchvision is.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import ProcessorMixin

from .checkpoint import as_sentence_transformers_saved, read_processor_settings, write_processor_files
from .collating import PixelScale, Place, Prepared, collate
from .cut_texts import Cuts
from .explaining import explain
from .families import family_of
from .items import ItemError, parse_item
from .limits import MediaError, MediaLimits
from .native import NativeCalls
from .pairs import PairCalls
from .patching import gives_list
from .placeholders import IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START
from .preparing import Preparing
from .prompts import MODES, ROLES, compile_template
from .rendering import PromptTokenizer
from .settings import ARGUMENTS, ProcessorSettings, with_arguments
from .vision import PatchLayout


class UmeProcessor(Preparing, PairCalls, NativeCalls, ProcessorMixin):  # type: ignore[misc]
    """Turns items into model inputs.

    Args:
        image_processor: the backbone's own; its patch geometry and normalisation are used, its pixels are not.
        tokenizer: a fast tokenizer with the backbone's vision tokens.
        chat_template: Jinja template; compiled from ``settings.prompt`` when None.
        settings: family, prompt, pooling, pixel budget, frame sampling, length; Qwen2-VL's defaults when None.
        limits: what one file may cost.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        settings: ProcessorSettings | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.settings = settings if settings is not None else ProcessorSettings()
        self.limits = limits if limits is not None else MediaLimits()
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or compile_template(self.settings.prompt)
        )
        self.prompt_tokenizer = PromptTokenizer(tokenizer)
        for token in (IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END):
            if token not in self.prompt_tokenizer.added:
                raise ValueError(
                    f"the tokenizer has no special token {token}: it belongs to another backbone"
                )
        self.image_token_id = self.prompt_tokenizer.id_of(IMAGE_TOKEN)
        self.video_token_id = self.prompt_tokenizer.id_of(VIDEO_TOKEN)
        self.layout = PatchLayout(
            image_processor.patch_size, image_processor.merge_size, image_processor.temporal_patch_size
        )
        self.scale = PixelScale(tuple(image_processor.image_mean), tuple(image_processor.image_std))
        self.family = family_of(self.settings.family)
        self.thinking = False  # whether prompts ask for a thought; see for_mode
        self.origin: tuple[str, dict[str, Any]] | None = (
            None  # the checkpoint this came from, and Hub arguments
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    # ---- loading and saving -----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        settings: ProcessorSettings | None = None,
        limits: MediaLimits | None = None,
        **kwargs: Any,
    ) -> UmeProcessor:
        """Load from a folder or Hub repository.

        Args:
            settings: replaces the checkpoint's own; a published checkpoint without our settings gets defaults for
                its family, with its own pixel budget.
            kwargs: ``revision``, ``subfolder``, ``token``, ``cache_dir`` and so on; of a stock processor's arguments
                ``min_pixels``, ``max_pixels``, ``size``, ``fps``, ``min_frames``, ``max_frames``,
                ``model_max_length`` (see :func:`with_arguments`), ``padding_side`` (of native calls) and
                ``chat_template``. Arguments of models, which pipelines pass to processors, too, mean nothing here;
                others are left out with a warning.

        Raises:
            ValueError: an argument's value is impossible.
        """
        known = {*_HUB_KEYS, *_IGNORED_KEYS, *_TOKENIZER_KEYS, *ARGUMENTS, "chat_template"}
        if unknown := sorted(set(kwargs) - known):
            warnings.warn(
                f"the processor has no arguments {unknown}, they are left out; settings are changed by "
                "with_settings(...)",
                stacklevel=2,
            )
        source = os.fspath(pretrained_model_name_or_path)
        hub = {key: kwargs[key] for key in _HUB_KEYS if kwargs.get(key) is not None}
        # Whatever the door that was opened trusts: only this class is the repository's, these are stock ones.
        image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        text = {key: kwargs[key] for key in _TOKENIZER_KEYS if kwargs.get(key) is not None}
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub, **text)
        stored, template = read_processor_settings(source, image_processor, hub)
        if settings is None and template is not None:
            stored = as_sentence_transformers_saved(stored, source, tokenizer, hub)
        if settings is not None:
            stored, template = settings, None
        if kwargs.get("chat_template") is not None:
            template = kwargs["chat_template"]
            stored = replace(stored, prompt=replace(stored.prompt, template=template))
        processor = cls(image_processor, tokenizer, template, with_arguments(stored, kwargs), limits)
        processor.origin = (source, hub)
        return processor

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Write tokenizer, template, processor config (ours and the native one) and our code.

        A processor from a checkpoint of ours also brings that one's model code and sentence-transformers' files where
        the folder lacks them, so that a model which stock classes save there opens by every door.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save first, then call push_to_hub")
        return write_processor_files(self, os.fspath(save_directory))

    def with_settings(self, **changes: Any) -> UmeProcessor:
        """A processor with some settings replaced and its template compiled anew."""
        settings = replace(self.settings, **changes)
        other = UmeProcessor(self.image_processor, self.tokenizer, None, settings, self.limits)
        other.origin = self.origin
        return other

    def with_max_length(self, max_length: int) -> UmeProcessor:
        """A processor with another ``max_length`` that shares everything else with this one."""
        other = copy.copy(self)
        other.settings = replace(self.settings, max_length=max_length)
        return other

    def for_call(self, items: Sequence[Any]) -> UmeProcessor:
        """This processor, or where one list of pictures sets the budget of a whole call, one with that budget."""
        budget = self.settings.budget
        if budget.listed is None or budget.listed_scope != "call" or not any(map(gives_list, items)):
            return self
        other = copy.copy(self)
        other.settings = replace(self.settings, budget=replace(budget, image=budget.listed))
        return other

    def for_mode(self, mode: str | None) -> UmeProcessor:
        """This processor, or for a mode that thinks, one that writes that mode's prompts.

        The tokens up to the direct embedding are the same in every mode.
        """
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode is {mode!r}; use one of {MODES}")
        thinking = mode not in (None, "discriminative")
        if thinking == self.thinking:
            return self
        other = copy.copy(self)
        other.thinking = thinking
        return other

    # ---- items to model inputs ----------------------------------------------------------------------------------

    def prepare(
        self,
        item: Any,
        *,
        role: str | None = None,
        instruction: str | None = None,
        index: int | None = None,
        mode: str | None = None,
    ) -> Prepared:
        """One item as token ids, patches and slots.

        Args:
            item: see ``items.parse_item``.
            role: None, ``"query"`` or ``"document"``: which default instruction.
            instruction: replaces the default; the item's own ``instruction`` wins over both. "" for none.
            index: the item's position, for messages.
            mode: whose prompt; this processor's own when None.

        Raises:
            ItemError: what is wrong with which item.
        """
        if role is not None and role not in ROLES:
            raise ValueError(f"role is {role!r}; use None, 'query' or 'document'")
        parsed = parse_item(item, index, empty=self.settings.empty_items)
        if parsed.instruction is not None:
            instruction = parsed.instruction
        elif instruction is None:
            instruction = self.settings.prompt.instructions.get(role or "default", "")
        processor = self if mode is None else self.for_mode(mode)
        try:
            return processor._prepare(parsed, instruction, role)
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error

    def prepare_all(
        self,
        items: Sequence[Any],
        *,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        tell_cuts: bool = True,
    ) -> list[Prepared]:
        """:meth:`prepare` for every item of a sequence. One warning tells of those that were cut (``tell_cuts``)."""
        processor = self.for_call(items)
        processor = processor if mode is None else processor.for_mode(mode)
        rows = [
            processor.prepare(item, role=role, instruction=instruction, index=index)
            for index, item in enumerate(items)
        ]
        if tell_cuts:
            Cuts().see(rows).warn(len(rows))
        return rows

    def collate(
        self,
        rows: Sequence[Prepared],
        padding_side: str | None = None,
        *,
        pixels: bool = True,
        place: Place | None = None,
    ) -> BatchFeature:
        """A padded batch of prepared items; see ``collating.collate``. Padding is on the right when None."""
        pad = self.tokenizer.pad_token_id
        return collate(
            rows,
            pad_id=0 if pad is None else pad,
            scale=self.scale,
            temporal=self.layout.temporal,
            padding_side=padding_side or "right",
            pixels=pixels,
            place=place,
            seconds_per_grid=(
                self.layout.temporal / self.settings.sampling.fps if self.family.seconds_per_grid else None
            ),
        )

    def encode_items(
        self,
        items: Sequence[Any],
        *,
        padding_side: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Items to a padded batch for the model, slots included; ``options`` as for :meth:`prepare_all`."""
        return self.collate(self.prepare_all(items, **options), padding_side)

    def explain(self, item: Any, **options: Any) -> dict[str, Any]:
        """What the model will see of an item: rendered text, tokens, slots, grids and pixels; see :meth:`prepare`."""
        return explain(self.prepare(item, **options), self.layout, self.tokenizer)


# What AutoProcessor, pipelines and sentence-transformers pass along and what means nothing here.
_IGNORED_KEYS = (
    "trust_remote_code",
    "code_revision",
    "use_fast",
    "use_auth_token",
    "backend",
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "dtype",
    "torch_dtype",
    "device_map",
    "max_memory",
    "low_cpu_mem_usage",
    "offload_folder",
    "attn_implementation",
    "quantization_config",
    "use_safetensors",
    "variant",
)
_TOKENIZER_KEYS = ("padding_side", "model_max_length")
_HUB_KEYS = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")
