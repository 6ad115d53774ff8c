"""The predictors of the PNAS paper: an MLP and an LSTM that read genes as tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hwnas.belief import Belief, NormalBelief
from hwnas.execution import one_thread
from spaces.errors import InputError

from .surrogate import FittedSurrogate, Floats, Surrogate
from .tokens import ABSENT, Tokens

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population

PREDICTION_BATCH = 1024
EMBEDDING_RANGE = 0.1
SPREAD = 0.15  # of scaled values, whose mean is 0.5: the sigmoid bends little there


@dataclass(frozen=True)
class SequenceSurrogate(Surrogate):
    """An ensemble of MLPs or LSTMs on the genes of networks, trained as one model with a leading member dimension.

    Genes that mean the same share their embeddings (`Tokens`). The LSTM reads a row token by token, as far as it
    has genes, and its last hidden state is what the output reads. The MLP puts the embeddings of a block side by
    side, takes the mean over the blocks that there are, and has two hidden layers. The output is a sigmoid. The loss
    is the mean absolute error. Each member leaves out another part of the data, one of as many parts as members.

    Attributes:
        kind: "mlp" or "lstm".
        width: of embeddings and of hidden layers.
        members: of the ensemble, at least 2; also the least number of networks to fit.
        epochs: passes over the data at each learning rate.
        batch: networks in one step of one member.
        learning_rates: of Adam, one after the other.
        output_bias: of the output before training; the paper's 1.8 gives 0.86. None scales values to a mean of 0.5
            and a standard deviation of 0.15 and begins at 0.5; otherwise values must lie in 0..1.

    Source: Liu et al., Progressive Neural Architecture Search, 1712.00559, section 3.4 and supplement. The paper
    trains at the first rate on the first level and goes on at the second on each later one; here each fit begins anew
    with all networks so far, and uses both. Epochs and batch are ours: the paper gives none.
    """

    name: ClassVar[str] = "sequences"
    kind: Literal["mlp", "lstm"]
    width: int = 100
    members: int = 5
    epochs: int = 40
    batch: int = 32
    learning_rates: tuple[float, ...] = (0.01, 0.002)
    output_bias: float | None = 1.8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"a sequence predictor is one of {', '.join(KINDS)}, got {self.kind!r}")
        if min(self.width, self.epochs, self.batch) < 1 or self.members < 2 or not self.learning_rates:
            raise InputError("a sequence predictor needs width, epochs and batch of at least 1 and 2 members or more")
        if min(self.learning_rates) <= 0:
            raise InputError(f"learning rates must be above 0, got {self.learning_rates}")

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedSequence:
        values = np.asarray(values, dtype=np.float64)
        self._check(population, values)
        tokens = Tokens.of_space(feasible.space)
        centre, scale = self._centre_and_scale(values)
        y = torch.from_numpy(((values - centre) / scale).astype(np.float32))
        generator = torch.Generator().manual_seed(seed)
        kind = KINDS[self.kind]
        parameters = kind.initial(tokens, self.width, self.members, generator)
        parameters[-1].fill_(0.0 if self.output_bias is None else self.output_bias)
        for parameter in parameters:
            parameter.requires_grad_()
        left_out = self._left_out(len(y), generator)
        with one_thread():
            self._train(parameters, kind.inputs(tokens, population), y, left_out, generator)
        fitted = FittedSequence(self.kind, tokens, tuple(each.detach() for each in parameters), centre, scale)
        members = fitted.predict_members(population)
        noise = _noise(members, values, left_out.numpy())
        return replace(fitted, noise=noise, unseen=_unseen(members, values, left_out.numpy()))

    def _check(self, population: Population, values: Floats) -> None:
        if values.shape != (len(population),) or not np.isfinite(values).all():
            raise InputError(f"{len(population)} networks need as many finite values, got the shape {values.shape}")
        if len(values) < self.members:
            raise InputError(f"this predictor needs at least {self.members} evaluated networks, got {len(values)}")
        if self.output_bias is not None and not ((values >= 0) & (values <= 1)).all():
            raise InputError(
                f"values must be fractions in 0..1, got {values.min():g} to {values.max():g}",
                hint="output_bias=None scales values of any range",
            )

    def _centre_and_scale(self, values: Floats) -> tuple[float, float]:
        """What is subtracted from values, and then divides them, before they are learned."""
        if self.output_bias is not None:
            return 0.0, 1.0
        scale = float(values.std()) / SPREAD or 1.0
        return float(values.mean()) - 0.5 * scale, scale

    def _left_out(self, n: int, generator: torch.Generator) -> Tensor:
        """(members, n): which networks each member does not learn from; each of them one member."""
        return (torch.randperm(n, generator=generator) % self.members) == torch.arange(self.members)[:, None]

    def _train(
        self, parameters: list[Tensor], inputs: Tensor, y: Tensor, left_out: Tensor, generator: torch.Generator
    ) -> None:
        optimizer = torch.optim.Adam(parameters, fused=True)
        for rate in self.learning_rates:
            optimizer.param_groups[0]["lr"] = rate
            for _ in range(self.epochs):
                for rows in self._batches(left_out, generator):
                    outputs = KINDS[self.kind].forward(parameters, inputs[rows])
                    # Summed over members: none of them shares a weight, so each gets its own gradient.
                    loss = (outputs - y[rows]).abs().mean(dim=1).sum()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()

    def _batches(self, left_out: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """One pass: (members, batch) rows, in another order for each member, without those that it leaves out."""
        order = (torch.rand(left_out.shape, generator=generator) + 2.0 * left_out).argsort(dim=1)
        fewest = left_out.shape[1] - int(left_out.sum(dim=1).max())
        yield from torch.split(order[:, :fewest], self.batch, dim=1)


@dataclass(frozen=True, eq=False)
class FittedSequence(FittedSurrogate):
    """The trained ensemble: its mean, and how far its members are apart (sample standard deviation).

    Attributes:
        noise: std of what one value has beyond that, from the errors of members on networks that they left out.
        unseen: of each network that was learned, what the member predicts that left it out, and the root mean squared
            error of the other members on those that they left out.
    """

    kind: Literal["mlp", "lstm"]
    tokens: Tokens
    parameters: tuple[Tensor, ...]
    centre: float
    scale: float
    noise: float = 0.0
    unseen: tuple[Floats, Floats] | None = None

    def predict(self, population: Population) -> tuple[Floats, Floats]:
        members = self.predict_members(population)
        return members.mean(axis=0), members.std(axis=0, ddof=1)

    def foretell(self, population: Population) -> Belief:
        mean, std = self.predict(population)
        return NormalBelief(mean, np.hypot(std, self.noise))

    def left_out(self) -> Belief | None:
        return None if self.unseen is None else NormalBelief(*self.unseen)

    def predict_members(self, population: Population) -> Floats:
        """(n, genes) -> (members, n)."""
        kind, members = KINDS[self.kind], len(self.parameters[0])
        outputs = np.empty((members, len(population)))
        with one_thread(), torch.inference_mode():
            for start in range(0, len(population), PREDICTION_BATCH):
                part = slice(start, start + PREDICTION_BATCH)
                inputs = kind.inputs(self.tokens, population[part])
                shared = inputs.expand(members, *inputs.shape)
                outputs[:, part] = kind.forward(list(self.parameters), shared).numpy()
        return self.centre + self.scale * outputs


def _noise(members: Floats, values: Floats, left_out: NDArray[np.bool_]) -> float:
    """What the spread of members does not explain of their errors on the networks that each left out."""
    error = ((members - values)[left_out] ** 2).mean()
    return math.sqrt(max(0.0, float(error - members.var(axis=0, ddof=1).mean())))


def _unseen(members: Floats, values: Floats, left_out: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    own = left_out.argmax(axis=0)
    mean = members[own, np.arange(len(values))]
    squares = (mean - values) ** 2
    # What is said of a part's errors may not know them: the other parts' say it.
    of_others = np.array([math.sqrt(squares[own != fold].mean()) for fold in range(len(members))])
    return mean, of_others[own]


class MLP:
    """Blocks as their tokens' embeddings side by side, their mean, two hidden layers, a sigmoid."""

    @staticmethod
    def initial(tokens: Tokens, width: int, members: int, generator: torch.Generator) -> list[Tensor]:
        embedded = width * tokens.slots
        return [
            _uniform((members, tokens.vocabulary, width), EMBEDDING_RANGE, generator),
            *_layer(members, embedded, width, generator),
            *_layer(members, width, width, generator),
            *_layer(members, width, 1, generator),
        ]

    @staticmethod
    def inputs(tokens: Tokens, population: Population) -> Tensor:
        """(n, slots, vocabulary): the share of a row's blocks that have a token in a slot."""
        found = tokens(population).reshape(len(population), -1, tokens.slots)
        one_hot = (found[..., None] == np.arange(tokens.vocabulary)) & (found != ABSENT)[..., None]
        blocks = (found != ABSENT).any(axis=2).sum(axis=1)
        return torch.from_numpy((one_hot.sum(axis=1) / blocks[:, None, None]).astype(np.float32))

    @staticmethod
    def forward(parameters: list[Tensor], inputs: Tensor) -> Tensor:
        """(members, batch, slots, vocabulary) -> (members, batch)."""
        E, W1, b1, W2, b2, W3, b3 = parameters
        members, _, width = E.shape
        # A mean of embeddings times W1 is a sum of shares times this, which is far smaller.
        table = torch.einsum("mvd,msdh->msvh", E, W1.view(members, -1, width, W1.shape[2]))
        x = functional.relu(torch.baddbmm(b1, inputs.flatten(2), table.flatten(1, 2)))
        x = functional.relu(torch.baddbmm(b2, x, W2))
        return torch.sigmoid(torch.baddbmm(b3, x, W3))[..., 0]


class LSTM:
    """The tokens that there are one after another, the last hidden state, a sigmoid."""

    @staticmethod
    def initial(tokens: Tokens, width: int, members: int, generator: torch.Generator) -> list[Tensor]:
        bias = torch.zeros(members, 1, 4 * width)
        bias[..., width : 2 * width] = 1.0  # memory is kept at first
        return [
            _uniform((members, tokens.vocabulary, width), EMBEDDING_RANGE, generator),
            _layer(members, width, 4 * width, generator)[0],
            _layer(members, width, 4 * width, generator)[0],
            bias,
            *_layer(members, width, 1, generator),
        ]

    @staticmethod
    def inputs(tokens: Tokens, population: Population) -> Tensor:
        found = tokens(population)
        longest = int((found != ABSENT).sum(axis=1).max(initial=0))
        return torch.from_numpy(found[:, :longest])

    @staticmethod
    def forward(parameters: list[Tensor], inputs: Tensor) -> Tensor:
        """(members, batch, genes) -> (members, batch)."""
        E, W_in, W_state, b, W_out, b_out = parameters
        table = torch.baddbmm(b, E, W_in)  # of each token
        member = torch.arange(len(E))[:, None]
        h = c = torch.zeros(*inputs.shape[:2], W_state.shape[1])
        for token in inputs.unbind(2):
            enter, forget, leave, new = (table[member, token] + torch.bmm(h, W_state)).chunk(4, dim=2)
            c_next = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
            h_next = torch.sigmoid(leave) * torch.tanh(c_next)
            there = (token != ABSENT)[..., None]
            c, h = torch.where(there, c_next, c), torch.where(there, h_next, h)
        return torch.sigmoid(torch.baddbmm(b_out, h, W_out))[..., 0]


KINDS: dict[str, type[MLP | LSTM]] = {"mlp": MLP, "lstm": LSTM}


def _layer(members: int, rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (Glorot-uniform) and bias (0) of a layer of each member."""
    bound = math.sqrt(6 / (rows + columns))
    return _uniform((members, rows, columns), bound, generator), torch.zeros(members, 1, columns)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(*shape, generator=generator) - 1) * bound
