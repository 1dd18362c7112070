"""A few numbers of a model's tensors move, all others stay: W' = W + D, where D is 0 outside of a mask.

All of D lies in one flat vector, so that the optimiser has one tensor to step. Where the tensor is that of a linear layer, D
stands in it, written there before each pass, and the layer runs as it always did; what its output's gradient g (M, N) says of
D is read off at the output, for the chosen numbers alone (M tokens, x the layer's input (M, K)):

    inputs I     dD = x[:, I]^T g                (|I|, N)     only x[:, I] is kept for it
    outputs O    dD = g[:, O]^T x                (|O|, K)
    blocks       dD_b = g[:, rows]^T x[:, columns]  for each
    entries      dD_ij = sum_m g_mi x_mj         a sampled product: the dense gradient is never made

Where the layer is quantised D runs beside it, y = Q(x) + x D^T, of the chosen numbers alone. Of any other tensor (an embedding,
a norm, a bias, what is tied or lies in a head) the dense gradient is made as ever, gathered at once and let go, one tensor at a
time.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxtune.backend.quantise import Quantised, is_linear, is_turned
from ctxtune.backend.tap import replace_forward, tap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Part


@dataclass
class _Piece:
    """The part of D in one tensor: numbers `begin` to `end` of the flat vector. (N, K) are outputs and inputs of a layer."""

    part: Part
    begin: int
    end: int
    turned: bool  # the layer stores (K, N)
    index: Tensor
    crow: Tensor  # of entries: where each row of the tensor begins among them
    column: Tensor

    @property
    def chooses_of_matrix(self) -> bool:
        """Whether it is less than a whole matrix."""
        return self.part.kind != "whole" and len(self.part.size) == 2

    @property
    def chooses(self) -> str:
        """Inputs, outputs, blocks or entries of the layer."""
        if self.part.kind in ("blocks", "entries"):
            return self.part.kind
        return "inputs" if (self.part.kind == "columns") != self.turned else "outputs"

    def of(self, flat: Tensor) -> Tensor:
        """Its numbers, in their own shape."""
        return flat[self.begin : self.end].view(self.part.shape)

    def kept(self, x: Tensor) -> Tensor:
        """What of the input (M, K) the gradient needs."""
        return x[:, self.index] if self.chooses == "inputs" else x

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """dD in its own shape, from what was kept of x, and g (M, N)."""
        if self.chooses == "inputs":
            return x.t() @ g
        if self.chooses == "outputs":
            return g[:, self.index].t() @ x
        down, across = (x, g) if self.turned else (g, x)  # along the tensor's rows, and along its columns
        if self.part.kind == "blocks":
            return self._tiles(down, 0).transpose(1, 2) @ self._tiles(across, 1)
        down, across = _wide(down), _wide(across)
        nothing = self._sparse(down.new_zeros(len(self.index)))
        found: Tensor = torch.sparse.sampled_addmm(nothing, down.t(), across, beta=0.0).values()
        return found

    def product(self, x: Tensor, delta: Tensor) -> Tensor:
        """x D^T of (M, K) to (M, N)."""
        return self._times(x, delta, forward=True)

    def back(self, g: Tensor, delta: Tensor) -> Tensor:
        """g D of (M, N) to (M, K)."""
        return self._times(g, delta, forward=False)

    def _times(self, x: Tensor, delta: Tensor, forward: bool) -> Tensor:
        rows, columns = self.part.size
        width = rows if forward != self.turned else columns  # of the result
        out = x.new_zeros(len(x), width)
        delta = delta.to(x.dtype)
        if self.chooses in ("inputs", "outputs"):
            if (self.chooses == "inputs") == forward:
                return x[:, self.index] @ delta
            return out.index_copy_(1, self.index, x @ delta.t())
        if self.part.kind == "blocks":
            down = forward == self.turned  # x runs along the tensor's rows
            tiles = self._tiles(x, 0 if down else 1) @ (delta if down else delta.transpose(1, 2))
            places = self._places(1 if down else 0)
            return out.index_add_(1, places.reshape(-1), tiles.transpose(0, 1).reshape(len(x), -1))
        matrix = self._sparse(_wide(delta))
        if forward == self.turned:
            matrix = matrix.t().to_sparse_csr()
        return (matrix @ _wide(x).t()).t().to(x.dtype)

    def _sparse(self, values: Tensor) -> Tensor:
        """Entries as a matrix of the tensor's size."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            return torch.sparse_csr_tensor(self.crow, self.column, values, self.part.size, check_invariants=False)

    def _places(self, axis: int) -> Tensor:
        """The rows, or the columns, of each block (n, b)."""
        first = torch.from_numpy(self.part.corners()[axis]).to(self.index.device)
        return first[:, None] + torch.arange(self.part.side, device=self.index.device)

    def _tiles(self, x: Tensor, axis: int) -> Tensor:
        """x (M, ...) at the rows, or the columns, of each block: (n, M, b)."""
        return x[:, self._places(axis)].transpose(0, 1)


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: sparse products know nothing narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Beside(torch.autograd.Function):
    """x D^T, with gradients for x and for D."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, piece: _Piece) -> Tensor:
        ctx.flat, ctx.piece = flat, piece
        wide = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(piece.kept(wide) if flat.requires_grad else None)
        return piece.product(wide, piece.of(flat.detach())).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        flat, piece = ctx.flat, ctx.piece
        wide = grad.reshape(-1, grad.shape[-1])
        if x is not None:
            _add_gradient(flat, piece, x, wide)
        back = piece.back(wide, piece.of(flat.detach())) if ctx.needs_input_grad[0] else None
        return None if back is None else back.view(*grad.shape[:-1], -1), None, None


def _add_gradient(flat: Tensor, piece: _Piece, x: Tensor, g: Tensor) -> None:
    """Add a layer's share to the gradient of the flat vector: autograd itself would make one as long for every layer."""
    piece.of(_gradient_of(flat)).add_(piece.gradient(x, g))


def _gradient_of(flat: Tensor) -> Tensor:
    if flat.grad is None:
        flat.grad = torch.zeros_like(flat)
    return flat.grad


class Delta:
    """D on a model: `flat` holds its numbers. A tensor gets W + D in its own type, and its own numbers back from `off`."""

    def __init__(self, model: nn.Module, mask: Mapping[str, Part]) -> None:
        self.model = model
        self.pieces: dict[str, _Piece] = {}
        self._params: dict[str, nn.Parameter] = {}
        self._undo: list[Callable[[], object]] = []
        self._own: dict[str, Tensor] = {}
        self._gathered: dict[str, Tensor] = {}
        end = 0
        for name, part in mask.items():
            begin, end = end, end + part.numel
            module, self._params[name] = self._home(name)
            self.pieces[name] = _piece(part, begin, end, self._params[name].device, is_turned(module))
        like = next(iter(self._params.values()))
        wide = torch.float64 if like.dtype is torch.float64 else torch.float32
        self.flat = nn.Parameter(torch.zeros(end, dtype=wide, device=like.device), requires_grad=False)
        self._written = torch.zeros_like(self.flat)

    def values(self) -> dict[str, Tensor]:
        """Each tensor's part of D, in the shape of its part of the mask."""
        return {name: piece.of(self.flat.detach()) for name, piece in self.pieces.items()}

    def places(self, name: str) -> Tensor:
        """Where in a flattened tensor the numbers of its part lie."""
        piece = self.pieces[name]
        if piece.part.kind == "entries":
            return piece.index
        return torch.from_numpy(piece.part.entries()).to(self._params[name].device)

    def choose(self, name: str, part: Part) -> None:
        """Let other numbers of a tensor move, as many as until now; those that did have their own values again.

        What they move by is for the caller to put into `flat`.
        """
        piece, param = self.pieces[name], self._params[name]
        if name in self._own:
            self._put(name, self._own[name])
        new = _piece(part, piece.begin, piece.end, param.device, piece.turned)
        piece.part, piece.index, piece.crow, piece.column = part, new.index, new.crow, new.column
        if name in self._own:
            self._own[name] = param.detach().reshape(-1)[self.places(name)].clone()
        if name in self._gathered:
            self._gathered[name] = self.places(name)
        self._written.fill_(torch.nan)  # unlike whatever D is: it is to be written anew

    def on(self) -> None:
        """Let the model compute with D as it is now; a second call does nothing."""
        if self._undo:
            return
        self._undo.append(self._rest)
        for name, piece in self.pieces.items():
            module, param = self._home(name)[0], self._params[name]
            if isinstance(module, Quantised) and name.endswith(".weight"):
                self._undo.append(replace_forward(module, partial(_beside, module.forward, self.flat, piece)))
            else:
                self._own[name] = param.detach().reshape(-1)[self.places(name)].clone()
        self.write()

    def learn(self, anatomy: Anatomy, lay: Callable[[], None] = lambda: None) -> None:
        """Let it compute with D as D will be in each pass, and let gradients reach D.

        `lay` is called before a pass: it may put another D into `flat`.
        """
        self.on()
        self.flat.requires_grad_(True)

        def write(*_: object) -> None:
            lay()
            self.write()

        homes = Counter(id(param) for _, param in self.model.named_parameters(remove_duplicate=False))
        outside = {name.rpartition(".")[0] for name in self.pieces if not name.startswith(f"{anatomy.backbone}.")}
        for name in self._own:
            piece, place = self.pieces[name], name.rpartition(".")[0]
            module = self.model.get_submodule(place)
            alone = homes[id(self._params[name])] == 1 and is_linear(module)
            if name.startswith(f"{anatomy.blocks}.") and alone and piece.chooses_of_matrix:
                self._undo.append(replace_forward(module, partial(_tapped, module.forward, self.flat, piece)))
            else:
                self._hook(name, piece)
        for place in (anatomy.backbone, *sorted(outside)):
            module = self.model.get_submodule(place)
            self._undo.append(module.register_forward_pre_hook(write).remove)

    def off(self) -> None:
        """The model as it was, bit for bit; a second call does nothing."""
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        self.flat.requires_grad_(False)

    def write(self) -> None:
        """Write D into its tensors where it has moved: no optimiser says that it has stepped."""
        now = self.flat.detach()
        if now.is_meta or torch.equal(now, self._written):
            return
        for name, own in self._own.items():
            self._put(name, own.to(now.dtype) + self.pieces[name].of(now).reshape(-1))
        self._written.copy_(now)

    def _rest(self) -> None:
        for name, own in self._own.items():
            self._put(name, own)
        self._own = {}
        self._written.zero_()

    def _home(self, name: str) -> tuple[nn.Module, nn.Parameter]:
        place, _, last = name.rpartition(".")
        module = self.model.get_submodule(place)
        return module, module.get_parameter(last)

    def _hook(self, name: str, piece: _Piece) -> None:
        """Gather D's gradient from that of the whole tensor, as soon as this is complete."""
        self._gathered[name] = self.places(name)

        def gather(whole: Tensor) -> None:
            assert whole.grad is not None
            gradient = whole.grad.reshape(-1)[self._gathered[name]]
            piece.of(_gradient_of(self.flat)).add_(gradient.view(piece.part.shape))
            whole.grad = None

        param = self._params[name]
        param.requires_grad_(True)
        self._undo.append(partial(param.requires_grad_, False))
        self._undo.append(param.register_post_accumulate_grad_hook(gather).remove)  # type: ignore[no-untyped-call]

    def _put(self, name: str, numbers: Tensor) -> None:
        param, piece = self._params[name], self.pieces[name]
        values = numbers.to(param.dtype).view(piece.part.shape)
        data = param.data
        if piece.part.kind == "rows":
            data[piece.index] = values
        elif piece.part.kind == "columns":
            data[:, piece.index] = values.t()
        else:
            data.view(-1)[self.places(name)] = values.reshape(-1)


def _piece(part: Part, begin: int, end: int, device: torch.device, turned: bool) -> _Piece:
    every = part.kind == "whole" and len(part.size) == 2  # beside a quantised layer, all rows
    index = torch.from_numpy(np.arange(part.size[0]) if every else part.index).to(device)
    crow = column = index.new_zeros(0)
    if part.kind == "entries" and len(part.size) == 2:
        column = index % part.size[1]
        ends = np.searchsorted(part.index, np.arange(part.size[0] + 1) * part.size[1])
        crow = torch.from_numpy(ends).to(device)
    return _Piece(part, begin, end, turned, index, crow, column)


def _tapped(forward: Callable[[Tensor], Tensor], flat: Tensor, piece: _Piece, x: Tensor) -> Tensor:
    y = forward(x)
    if not (torch.is_grad_enabled() and flat.requires_grad):
        return y
    kept = piece.kept(x.detach().reshape(-1, x.shape[-1]))
    return tap(y, kept, flat, partial(_add_gradient, flat, piece))


def _beside(forward: Callable[[Tensor], Tensor], flat: Tensor, piece: _Piece, x: Tensor) -> Tensor:
    more: Tensor = _Beside.apply(x, flat, piece)  # type: ignore[no-untyped-call]
    return forward(x) + more
