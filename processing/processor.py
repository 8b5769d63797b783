"""The processor that ships with every checkpoint: loaded and saved, and called as native ones are.

Works without torchvision on Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5;
``AutoProcessor.from_pretrained(repo, trust_remote_code=True)`` loads it without umekit.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoTokenizer, BatchFeature

# By its module: as a name of the package, some versions give it only where torchvision is.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .checkpoint import as_sentence_transformers_saved, read_processor_settings, write_processor_files
from .collating import Prepared
from .cut_texts import Cuts
from .item_processor import ItemProcessor
from .limits import MediaLimits
from .native import INPUT_NAMES, bounded, item_of_messages, rows_of_prompts, sized
from .prompts import ROLES
from .settings import ARGUMENTS, ProcessorSettings, with_arguments
from .templates import render_template


class UmeProcessor(ItemProcessor):
    """Turns items, pairs, chat messages and rendered prompts into model inputs; see :class:`ItemProcessor`."""

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

    # ---- as a native processor -----------------------------------------------------------------------------------

    item_of_messages = staticmethod(item_of_messages)

    @property
    def model_input_names(self) -> list[str]:
        return list(INPUT_NAMES)

    def prepare_messages(self, messages: Sequence[Mapping[str, Any]]) -> Prepared:
        """A chat as one row: a pair where it has the roles ``query`` and ``document``, an item otherwise."""
        if not {message["role"] for message in messages} >= set(ROLES):
            return self.prepare(item_of_messages(messages), instruction="")
        rest = [message for message in messages if message["role"] != "document"]
        documents = [message for message in messages if message["role"] == "document"]
        # A chat without a system message has no instruction, whatever the default is: the caller wrote all of it.
        return self.prepare_pair(item_of_messages(rest), item_of_messages(documents), instruction="")

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Chat messages to text, or with ``tokenize=True`` to a padded batch.

        Args:
            conversation: messages, or a list of conversations. A ``system`` message is the instruction.
            tokenize: False gives the rendered text (a list of them for several conversations).
            padding_side: side of the padding of a tokenized batch.
            thinking: among ``kwargs``: whether the prompt asks for a thought.
            return_slots: whether the batch has ``pooling_slots`` (native models do not know them).
            kwargs: ``min_pixels``, ``max_pixels``, ``size``, ``fps`` and the like for this call, by themselves or in
                ``processor_kwargs``; output arguments of native processors are ignored, torch tensors come out.
        """
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        conversations = [conversation] if single else list(conversation)
        if not tokenize:
            told = {**self.tokenizer.special_tokens_map}
            told |= {name: kwargs[name] for name in ("thinking",) if name in kwargs}
            template = str(self.chat_template) if chat_template is None else chat_template
            texts = [render_template(template, one, told) for one in conversations]
            return texts[0] if single else texts
        if chat_template is not None and chat_template != self.chat_template:
            raise ValueError(
                "this processor tokenizes with its checkpoint's own template only; save another one there"
            )
        given = kwargs.get("processor_kwargs") or kwargs
        settings = sized(bounded(self.settings, given, self.tokenizer.model_max_length), given)
        processor = self._with(settings).for_mode("generative" if kwargs.get("thinking") else None)
        rows = [processor.prepare_messages(one) for one in conversations]
        Cuts().see(rows).warn(len(rows))
        return self._native_batch(rows, padding_side, return_slots)

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        *,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Rendered prompts and their media, in the order of the placeholders, to a padded batch.

        Special tokens in ``text`` are real ones here: for text that users typed, use items or chat messages.
        ``kwargs`` are as for :meth:`apply_chat_template`.

        Raises:
            ValueError: placeholders and media do not match.
        """
        if text is None:
            raise ValueError(
                "give rendered text with placeholders, chat messages to apply_chat_template, or items: "
                "pictures alone are encode_items([{'image': picture}, ...])"
            )
        context = self._with(sized(self.settings, kwargs)).context
        rows = rows_of_prompts(context, [text] if isinstance(text, str) else list(text), images, videos)
        return self._native_batch(rows, padding_side, return_slots)

    def _native_batch(self, rows: list[Prepared], padding_side: str | None, slots: bool) -> BatchFeature:
        batch = self.collate(rows, padding_side or getattr(self.tokenizer, "padding_side", None))
        if not slots:
            batch.pop("pooling_slots")
        return batch


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
