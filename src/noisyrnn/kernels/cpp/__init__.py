"""The CPU kernel: C++ compiled for this machine at its first use."""

from noisyrnn.kernels.cpp.kernel import backward, forward, layout, supports
from noisyrnn.kernels.cpp.stream import Stream

__all__ = ["Stream", "backward", "forward", "layout", "supports"]
