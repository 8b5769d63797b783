"""Patches embedded by a matrix product.

Qwen's vision towers cut a picture into patches beforehand and then convolve each of them alone, with a kernel of the
patch's own size: a matrix product that is written as a convolution, which a CPU computes more slowly (``convolved`` in
``benchmarks/attention.py``).
"""

from __future__ import annotations

from torch import Tensor, nn


class PatchProjection(nn.Conv3d):
    """A ``Conv3d`` that multiplies where its input is single patches; weights, names and file layout stay its own."""

    def forward(self, input: Tensor) -> Tensor:
        """``[patches, channels, frames, height, width]`` -> ``[patches, width of the tower, 1, 1, 1]``."""
        if tuple(input.shape[2:]) != self.kernel_size:
            return super().forward(input)
        found = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return found[:, :, None, None, None]


def multiply_patches(backbone: nn.Module) -> None:
    """Have a backbone's patch convolutions work as products. LoRA, checkpoints and quantisation see a ``Conv3d``."""
    for module in backbone.modules():
        if type(module) is nn.Conv3d and module.padding == (0, 0, 0) and module.dilation == (1, 1, 1):
            module.__class__ = PatchProjection  # in place: ties and names of the module stay
            if "_old_forward" in vars(
                module
            ):  # what accelerate's hook calls, where a device_map put one there
                module._old_forward = PatchProjection.forward.__get__(module)
