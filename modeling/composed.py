"""Composed in memory, native on disk: the part that every kind of model shares.

``self.backbone`` is whatever ``AutoModelForImageTextToText`` gives. The folder that is saved keeps the backbone's
own keys, ``model_type`` and ``architectures``, so plain transformers, PEFT, vLLM and sentence-transformers open it;
``config.json`` only gains ``ume`` and ``auto_map``. A subclass of a backbone class would lose transformers'
checkpoint key conversion and load a random language model with no more than a warning: hence composition.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from .adapters import BackboneAdapters, adapter_of, add_adapter, lacking_rows, name_base_from_anywhere
from .backbone import audit_loading, flag_attention, load_backbone, load_stock
from .patches import multiply_patches
from .saving import auto_map, stock_modules_read, write_code, write_sentence_transformers_files
from .settings import BASE_WEIGHTS, FILLED_ROWS, FilledRows, UmeSettings, UmeSettingsError
from .versions import need_transformers

PREFIX = "backbone."


class UmePreTrainedModel(BackboneAdapters, PreTrainedModel):  # type: ignore[misc]
    """A backbone plus :class:`UmeSettings`; loads and saves in the backbone's native layout."""

    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: ClassVar[list[str]] = []  # type: ignore[misc]
    kind: ClassVar[str] = ""
    modes: ClassVar[tuple[str, ...]] = ()  # of ``encode``

    def __init__(
        self, config: Any, backbone: nn.Module | None = None, settings: UmeSettings | None = None
    ) -> None:
        super().__init__(config)
        self.settings = settings if settings is not None else UmeSettings.from_config(config)
        if self.settings.kind != self.kind:
            raise UmeSettingsError(
                f"this checkpoint has the role {self.settings.kind!r}, {type(self).__name__} is for {self.kind!r}: "
                "load it with AutoModel or umekit.load, or export it for another role"
            )
        self.settings.check_backbone(config.model_type)
        self.backbone: Any = (
            backbone if backbone is not None else AutoModelForImageTextToText.from_config(config)
        )
        multiply_patches(self.backbone)
        self.filled_rows: FilledRows = {}
        flag_attention(config, self.settings)

    # ---- loading -------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: Any = None,
        settings: UmeSettings | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load the backbone natively and wrap it.

        Args:
            pretrained_model_name_or_path: folder or Hub repository in the backbone's native layout; or of a LoRA
                adapter, which then goes onto the base that it names.
            config: a native config; read from the repository when None.
            settings: replaces the checkpoint's ``ume`` block (a published checkpoint has none).
            output_loading_info: also return transformers' loading info.
            kwargs: go to ``AutoModelForImageTextToText.from_pretrained`` (``revision``, ``subfolder``, ``dtype``,
                ``device_map``, ``quantization_config``, ``attn_implementation`` ...). With bitsandbytes give
                ``llm_int8_skip_modules=list(UNQUANTISED_MODULES)``, else the vision tower is quantised, too.

        Raises:
            LoadAuditError: a weight is missing or has another shape; nothing is ever left random.
            CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
            UmeSettingsError: the ``ume`` block cannot be used by this class.
            AdapterError: a tensor of the adapter found no place, or it changes nothing.
            FileNotFoundError: the adapter's base is not there.
        """
        need_transformers()
        source = os.fspath(pretrained_model_name_or_path)
        kwargs.pop("_from_auto", None)
        kwargs.pop("trust_remote_code", None)
        adapter = adapter_of(source, kwargs)
        if adapter is not None:
            source, kwargs = adapter.base, adapter.base_arguments(config, kwargs)
        elif config is not None:
            kwargs["config"] = config
        backbone, info = load_stock(source, *model_args, **kwargs)
        audit_loading(info, source)
        model = cls(backbone.config, backbone, settings)
        if adapter is not None:
            model.fill_rows(lacking_rows(kwargs.get("config"), source, kwargs))
            add_adapter(backbone, adapter.folder, adapter.hub)
        model.eval()
        return (model, info) if output_loading_info else model

    def with_settings(self, settings: UmeSettings, model_class: Any = None) -> Any:
        """The same backbone under other settings, and as another class where those are of another kind."""
        changed = (model_class or type(self))(self.config, self.backbone, settings)
        changed.filled_rows = dict(self.filled_rows)
        return changed

    @torch.no_grad()
    def fill_rows(self, rows: FilledRows) -> None:
        """Set rows of the embedding matrix: copies of other rows first, then means of all rows before them, in order.

        For tokens that the files of the base do not have. ``filled_rows`` remembers them, and the folder of an
        adapter that is trained on them records them, as its base on disk stays as it is.

        Args:
            rows: token to row, for a mean; the matrix grows where it is too short. Or to row and source, for a copy,
                in an output matrix of its own, too.

        Raises:
            UmeSettingsError: the matrix has no such spare row for a copy.
        """
        if not rows:
            return
        copies = {token: row for token, row in rows.items() if not isinstance(row, int)}
        means = sorted(row for row in rows.values() if isinstance(row, int))
        length = self.backbone.get_input_embeddings().weight.shape[0]
        for token, (number, source) in copies.items():
            if max(number, source) >= length:
                raise UmeSettingsError(
                    f"{token} would be row {number} of a matrix of {length}, which must not grow"
                )
            for module in (self.backbone.get_input_embeddings(), self.backbone.get_output_embeddings()):
                if module is not None:
                    module.weight[number] = module.weight[source]
        if means and means[-1] >= length:
            self.backbone.resize_token_embeddings(means[-1] + 1, mean_resizing=False)
        matrix = self.backbone.get_input_embeddings().weight
        for number in means:
            parts = matrix[:number].split(8192)  # no float32 copy of the matrix
            total = sum(part.float().sum(dim=0) for part in parts)
            matrix[number] = (total / number).to(matrix.dtype)
        self.filled_rows = {**self.filled_rows, **rows}

    def load_native_weights(self, folder: str | os.PathLike[str]) -> None:
        """Replace this model's weights, in place, by those of a folder in native layout.

        Raises:
            LoadAuditError: the folder leaves a weight missing or mismatched; this model is then unchanged.
        """
        fresh = load_backbone(os.fspath(folder), dtype=self.dtype)
        self.backbone.load_state_dict(fresh.state_dict(), strict=True)

    # ---- saving --------------------------------------------------------------------------------------------

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights, code and sentence-transformers files: complete but for the processor's files.

        Args:
            save_directory: folder; made if missing.
            state_dict: weights with or without our ``backbone.`` prefix; the model's own when None.
            kwargs: go to the backbone's ``save_pretrained`` (``max_shard_size`` ...).
        """
        push_to_hub = kwargs.pop("push_to_hub", False)
        if push_to_hub:
            raise ValueError(
                "save first, then call push_to_hub on the model, so that the processor can go along"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if state_dict is not None:
            state_dict = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
        source = getattr(self.config, "_name_or_path", None)
        config = self.backbone.config
        config.ume = self.settings.to_dict()
        if self._hf_peft_config_loaded and self.filled_rows:  # saved without the matrix that holds them
            config.ume[FILLED_ROWS] = dict(self.filled_rows)
        if self._hf_peft_config_loaded and (base := getattr(self.backbone, BASE_WEIGHTS, None)) is not None:
            config.ume[BASE_WEIGHTS] = base
        config.auto_map = auto_map(type(self))
        flag_attention(config, self.settings)
        self.backbone.save_pretrained(folder, state_dict=state_dict, **kwargs)
        if self._hf_peft_config_loaded:
            name_base_from_anywhere(folder)
            config.save_pretrained(folder)  # which an adapter alone lacks, or has of what was there before
        revision = getattr(self.config, "_commit_hash", None)
        adapter = self._hf_peft_config_loaded and bool(
            self.filled_rows or not stock_modules_read(self.settings, source, revision)
        )
        write_sentence_transformers_files(folder, self.settings, config.model_type, self.dim, adapter=adapter)
        write_code(folder, self.kind, source, revision)

    # ---- what trainers and loaders ask of a native model --------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.settings.dim or self.config.get_text_config().hidden_size

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.backbone.get_output_embeddings()

    @property
    def is_quantized(self) -> bool:
        return bool(getattr(self.backbone, "is_quantized", False))

    @property
    def is_loaded_in_4bit(self) -> bool:
        return bool(getattr(self.backbone, "is_loaded_in_4bit", False))

    @property
    def is_loaded_in_8bit(self) -> bool:
        return bool(getattr(self.backbone, "is_loaded_in_8bit", False))

    @property
    def quantization_method(self) -> Any:
        return getattr(self.backbone, "quantization_method", None)

    @property
    def hf_quantizer(self) -> Any:
        return getattr(self.backbone, "hf_quantizer", None)

    @property
    def hf_device_map(self) -> Any:
        # AttributeError and not None where there is none: accelerate asks with hasattr.
        return self.backbone.hf_device_map

    @property
    def _hf_peft_config_loaded(self) -> bool:  # type: ignore[override]
        backbone = self._modules.get("backbone")
        return bool(getattr(backbone, "_hf_peft_config_loaded", False))

    @_hf_peft_config_loaded.setter
    def _hf_peft_config_loaded(self, value: bool) -> None:
        if value:
            raise ValueError("put adapters on model.backbone, so that they also load into the plain backbone")

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype
