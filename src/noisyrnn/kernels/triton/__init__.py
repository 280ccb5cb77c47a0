"""The kernel "triton": the whole loop over time in one launch, for NVIDIA GPUs."""

from noisyrnn.kernels.triton.kernel import backward, forward, layout, supports

__all__ = ["backward", "forward", "layout", "supports"]
