"""Model and objective in one module, and what a Trainer must not do to either."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .lora import part_of

Metrics = dict[str, Tensor]
Run = Callable[[Any, Mapping[str, Any]], Any]
Read = Callable[[Any], Tensor]
Local = Callable[[Any, Any, Mapping[str, Any]], Tensor]

LOCAL = "local_"  # what is named so in a batch is for the local loss alone
LOCAL_ROWS = "local_rows"  # those of the batch that count; what follows keeps ranks in step
LOCAL_WEIGHT = "local_weight"  # of a forward's local loss; 1 where it is not there


def run_model(model: Any, inputs: Mapping[str, Any]) -> Any:
    """The model's output for a batch."""
    return model(**inputs)


def read_embeddings(output: Any) -> Tensor:
    """The one vector of each row, float32 [B, d]."""
    if output.embeddings is None:
        raise ValueError("the model returned no embeddings: the batch has no pooling slots")
    return output.embeddings  # type: ignore[no-any-return]


def read_slots(output: Any) -> Tensor:
    """Both vectors of each row, at the prompt's slot and after its thought, float32 [B, 2, d].

    The second one of a row without a thought is zero.
    """
    direct, generated = read_embeddings(output), output.generated_embeddings
    return torch.stack([direct, torch.zeros_like(direct) if generated is None else generated], dim=1)


def produced(slots: Tensor) -> Tensor:
    """The vector after a thought where there is one, [..., d], of both, [..., 2, d]; see :func:`read_slots`."""
    direct, generated = slots[..., 0, :], slots[..., 1, :]
    return torch.where(generated.ne(0).any(dim=-1, keepdim=True), generated, direct)


class ModelWithObjective(nn.Module):
    """Model and objective as one module, so that the optimiser, DDP and FSDP see both.

    ``forward(batch, read, local, then)`` runs a batch (dict of model inputs; a list of such, one after the other), by
    ``run(model, inputs)`` where that is given. ``read(output)`` takes from the model's output what crosses the batch,
    [B, ...]: one vector, two slots, two logits; None for nothing. ``local(model, output, batch)`` is a loss that does
    not cross it, a 0-d sum over the rows: of tokens, of a policy. Entries of the batch named ``local_...`` (labels) are
    for it alone.

    Returns ``then(values, sum of the local losses, self)``, or the values where ``then`` is None. Whatever needs a
    gradient is computed inside, because only what happens inside forward is seen by DDP and runs under autocast.
    """

    _PROXIED = frozenset(
        {
            "config",
            "generation_config",
            "dtype",
            "device",
            "is_quantized",
            "quantization_method",
            "hf_quantizer",
            "hf_device_map",
            "is_loaded_in_8bit",
            "is_loaded_in_4bit",
            "_hf_peft_config_loaded",
            "is_activation_checkpointing",
            "activation_checkpointing_enable",
            "gradient_checkpointing_enable",
            "gradient_checkpointing_disable",
            "is_gradient_checkpointing",
            "enable_input_require_grads",
            "get_input_embeddings",
            "num_parameters",
        }
    )

    _CHECKPOINTING = frozenset({"activation_checkpointing_enable", "gradient_checkpointing_enable"})

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(
        self,
        batch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        read: Read | None = read_embeddings,
        local: Local | None = None,
        then: Callable[[Tensor | None, Tensor | None, ModelWithObjective], Any] | None = None,
        run: Run = run_model,
    ) -> Any:
        values: list[Tensor] = []
        losses: list[Tensor] = []
        for part in [batch] if isinstance(batch, Mapping) else batch:
            output = run(self.model, {name: one for name, one in part.items() if not name.startswith(LOCAL)})
            if read is not None:
                values.append(read(output)[: part.get(LOCAL_ROWS)])
            if local is not None and then is not None:
                losses.append(local(self.model, output, part) * part.get(LOCAL_WEIGHT, 1.0))
        found = torch.cat(values) if values else None
        return found if then is None else then(found, torch.stack(losses).sum() if losses else None, self)

    def get_output_embeddings(self) -> nn.Module | None:
        """The output matrix where it is that of the input embeddings: FSDP must have both in one group.

        None for another: no forward here runs it, and FSDP2 fails in a backward without synchronisation on a group
        that was never gathered. It is then in the group of the root.
        """
        backbone = getattr(self.model, "backbone", None)
        if backbone is None or untied_head_parameters(self.model):
            return None
        return backbone.get_output_embeddings()  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_no_split_modules":  # the blocks, from which accelerate makes groups of FSDP
                backbone: Any = self.model.backbone
                return backbone._no_split_modules
            if name not in self._PROXIED:
                raise
            found = getattr(self.model, name)
            return self._without_input_gradients(found) if name in self._CHECKPOINTING else found

    def _without_input_gradients(self, enable: Callable[..., None]) -> Callable[..., None]:
        """Checkpointing that is not reentrant (no other is allowed) needs no gradient at the inputs.

        transformers asks for one, and a frozen vision tower would keep its activations and be backpropagated for
        nothing.
        """

        def enabled(*args: Any, **kwargs: Any) -> None:
            enable(*args, **kwargs)
            holders: list[Any] = [self.model, getattr(self.model, "backbone", None)]
            for holder in holders:
                if hasattr(holder, "disable_input_require_grads"):
                    holder.disable_input_require_grads()

        return enabled


def untied_head_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters of an output head that is not tied to the input embeddings: what no vector depends on."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return []
    head, embeddings = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        return []
    return list(head.parameters())


def freeze_lm_head(model: Any) -> None:
    """Freeze an output head that is not tied to the input embeddings: DDP would wait for it."""
    for parameter in untied_head_parameters(model):
        parameter.requires_grad_(False)


def freeze_other_parts(model: Any, parts: Sequence[str]) -> None:
    """Freeze what is in no part of a backbone that is named; an adapter, and the output matrix, stay as they are."""
    if getattr(model, "_hf_peft_config_loaded", False):
        return
    for name, parameter in model.backbone.named_parameters():
        if (part := part_of(name)) is not None and part not in parts:
            parameter.requires_grad_(False)


@contextlib.contextmanager
def kept_use_cache(model: Any) -> Iterator[None]:
    """``Trainer.__init__`` writes ``use_cache`` into the config, which would end up in the published one."""
    config = getattr(model, "config", None)
    before = dict(vars(config)) if config is not None else {}
    yield
    if config is None:
        return
    if "use_cache" in before:
        config.use_cache = before["use_cache"]
    elif "use_cache" in vars(config):
        del config.use_cache
