"""The Hessian of the loss with respect to the weights, as a linear operator that never stores its entries."""

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data.split import Split, check_regular, check_split
from noisyrnn.models import RecurrentLayer
from noisyrnn.models.heads import SequenceModel
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import as_batch_first

_DTYPES = ("float32", "float64")


class SymmetricOperator(Protocol):
    """A symmetric matrix given by its products with vectors, from which eigenvalues, trace and density are computed."""

    @property
    def size(self) -> int:
        """Number of rows and of columns."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""

    @property
    def device(self) -> torch.device:
        """Of the vectors."""

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return the product with a vector `(size,)`."""


class MeanLoss:
    r"""Mean cross-entropy :math:`L(w) = \frac{1}{n} \sum_i \ell(f_w(x_i), y_i)` of a copy of a module, over a split.

    For values, and for labels at every step, it is the mean of the losses of a `SequenceModel`. All sequences count
    equally, whatever their `weights` in the split.

    The copy is in eval mode (dropout off, running statistics fixed) and without hidden noise, so that `L` is one fixed
    function of its trainable parameters `w`, those that require a gradient, in the module's order, as one vector. Of a
    parametrised weight, such as an orthogonal one, these are the free parameters beneath. The caller's model is left
    unchanged.

    Args:
        model: Any module from `(batch, steps, input_size)` to logits; called with `lengths=` if the split has lengths.
        split: The n sequences, moved to the device of the parameters batch by batch.
        batch_size: Number of sequences per pass; it affects memory, not the result.
        dtype: Type of the copy (default: that of the model).
        kernel: Kernel of the copy's recurrent layers (default: unchanged).

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If nothing in it is trainable, or its logits have another shape.
    """

    @recording
    def __init__(
        self,
        model: nn.Module,
        split: Split,
        *,
        batch_size: int = 256,
        dtype: torch.dtype | None = None,
        kernel: str | None = None,
    ) -> None:
        check_integer("batch_size", batch_size, minimum=1)
        check_split("split", split)
        check_regular("split", split)
        trainable_parameters(model)
        copied: Any = copy.deepcopy(model).to(dtype).eval()
        self.model: Any = as_batch_first(copied)
        for module in self.model.modules():
            if isinstance(module, RecurrentLayer):
                module.noise_mode = "off"
                module.kernel = module.kernel if kernel is None else kernel
        self.parameters = trainable_parameters(self.model)
        self.split = split
        self._rows = torch.arange(len(split), device="cpu").split(batch_size)

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self._rows)

    def share(self, batch: int) -> Tensor:
        """Return the share of a batch in `L(w)`, a scalar; the sum over all batches is `L(w)`."""
        rows = self._rows[batch]
        first = self.parameters[0]
        inputs = self.split.inputs[rows].to(first.device)
        if not isinstance(self.model, SequenceModel):  # the model rounds inputs itself, after standardising them
            inputs = inputs.to(first.dtype)
        labels = self.split.labels[rows].to(first.device)
        if self.split.lengths is None:
            logits = self.model(inputs)
        else:
            logits = self.model(inputs, lengths=self.split.lengths[rows].to(first.device))
        if not self.split.one_class_each:
            if not isinstance(self.model, SequenceModel):
                raise TypeError(f"model must be a SequenceModel for these labels, got {type(self.model).__name__}.")
            losses: Tensor = self.model.losses(logits, labels)
            return losses.sum() / len(self.split)
        if logits.ndim != 2 or len(logits) != len(rows) or logits.shape[1] < self.split.classes:
            raise ValueError(
                f"model must return logits of shape ({len(rows)}, {self.split.classes}), got {tuple(logits.shape)}."
            )
        return nn.functional.cross_entropy(logits, labels, reduction="sum") / len(self.split)


class LossHessian:
    r"""The Hessian :math:`H = \nabla^2 L(w)` of `MeanLoss`, as a symmetric operator on the trainable parameters.

    A product :math:`H v = \nabla_w (\nabla_w L \cdot v)` is exact up to rounding: the reference loop is differentiated
    twice. With a single batch the graph of the gradient is kept, and a product costs about two gradients. With more,
    the graph is built again for every batch of every product, which costs about three, and the memory is that of one
    batch. At a kink (modReLU, ReLU) the second derivative of the two sides counts, not the jump between them.

    Args:
        model: Any module from `(batch, steps, input_size)` to logits; it is copied, so later training does not change
            the operator.
        split: Sequences and labels of the loss, which count equally: its `weights` have no effect.
        batch_size: Number of sequences per pass; it affects memory and time, not the result.
        dtype: Type of all computation. In float32, twice as fast, products carry a relative error of about 1e-6.

    Attributes:
        size: Number of trainable parameters.
        dtype: Type of the products.
        device: Device of the products.
        loss: `L(w)`.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If nothing in it is trainable, its logits have another shape, or `dtype` is another one.
        RuntimeError: If the loss or its gradient is not finite.

    Example:
        >>> from noisyrnn.models import LipschitzRNN, SequenceClassifier
        >>> model = SequenceClassifier(LipschitzRNN(input_size=1, hidden_size=4), classes=3)
        >>> split = Split(inputs=torch.ones(8, 5, 1), labels=torch.arange(8) % 3, classes=3)
        >>> hessian = LossHessian(model, split)
        >>> hessian
        LossHessian(55 parameters, 8 sequences, float64)
        >>> (hessian @ torch.ones(55)).shape
        torch.Size([55])
    """

    @recording
    def __init__(
        self, model: nn.Module, split: Split, *, batch_size: int = 256, dtype: torch.dtype = torch.float64
    ) -> None:
        check_choice("dtype", str(dtype).removeprefix("torch."), _DTYPES)
        self._mean = MeanLoss(model, split, batch_size=batch_size, dtype=dtype, kernel="reference")
        self._parameters = self._mean.parameters
        self.size = sum(parameter.numel() for parameter in self._parameters)
        self.dtype = dtype
        self.device = self._parameters[0].device
        self._kept: Tensor | None = None
        self._gradient = torch.zeros(self.size, dtype=dtype, device=self.device)
        self.loss = 0.0
        for batch in range(self._mean.batches):
            share, slope = self._slope(batch)
            self.loss += share
            self._gradient += slope.detach()
            if self._mean.batches == 1:
                self._kept = slope
        bad = int((~torch.isfinite(self._gradient)).sum())
        if bad or not math.isfinite(self.loss):
            raise RuntimeError(
                f"loss must be finite for a Hessian, got {self.loss:g}, with {bad} of {self.size} entries of its "
                "gradient not finite. Lower the model's step size or its weights."
            )

    def __repr__(self) -> str:
        """Show the numbers of parameters and sequences, and the precision."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"LossHessian({self.size} parameters, {len(self._mean.split)} sequences, {dtype})"

    def gradient(self) -> Tensor:
        """Return `∇L(w)`, `(size,)`."""
        return self._gradient.clone()

    @recording
    def matvec(self, vectors: Tensor) -> Tensor:
        """Return `H v` for a vector `(size,)`, or for each column of `(size, k)`.

        Raises:
            ValueError: If the shape is wrong.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.size:
            raise ValueError(f"vectors must have shape ({self.size},) or ({self.size}, k), got {tuple(vectors.shape)}.")
        vectors = vectors.detach().to(dtype=self.dtype, device=self.device)
        columns = vectors.unsqueeze(1) if vectors.ndim == 1 else vectors
        products = torch.zeros_like(columns)
        for batch in range(self._mean.batches):
            slope = self._slope(batch)[1] if self._kept is None else self._kept
            # One after another: a batched backward pass moves more memory and takes longer for each vector.
            for column, product in zip(columns.unbind(1), products.unbind(1), strict=True):
                product += _flat_gradient(slope, self._parameters, column)
        return products.view_as(vectors)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return the product, like `matvec`."""
        return self.matvec(vectors)

    def _slope(self, batch: int) -> tuple[float, Tensor]:
        """Return the share of a batch in the loss, and in the gradient with its graph."""
        # The fused recurrent networks of cuDNN have no second derivative; PyTorch's own loops, behind them, do.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            share = self._mean.share(batch)
            slope = _flat_gradient(share, self._parameters)
        return float(share.detach()), slope


def _flat_gradient(value: Tensor, parameters: list[nn.Parameter], vector: Tensor | None = None) -> Tensor:
    """Return the gradient of `value`, or of its product with `vector`, as one vector; 0 where there is no dependence.

    The graph of `value` is kept. The gradient has a graph too, unless there is a vector.
    """
    gradients = torch.autograd.grad(
        value,
        parameters,
        vector,
        retain_graph=True,
        create_graph=vector is None,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient, in the module's order, shared ones once.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If there are none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module for a loss in its weights, got {type(model).__name__}.")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"model must have trainable parameters, got none in {type(model).__name__}.")
    return parameters


def random_signs(size: int, generator: torch.Generator) -> Tensor:
    """Draw independent entries -1 and 1 with equal probability, `(size,)`, float64 on the CPU."""
    return 2.0 * torch.randint(2, (size,), generator=generator, device="cpu").double() - 1.0
