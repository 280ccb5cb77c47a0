"""The kernel "cpp": C++ compiled for this machine at its first use."""

from noisyrnn.kernels.cpp.kernel import backward, forward, layout, no_bf16, product_precision, supports

__all__ = ["backward", "forward", "layout", "no_bf16", "product_precision", "supports"]
