"""A policy that reads a network and says how likely each edit of it is; trained by REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.execution import one_thread
from spaces import Population

Floats = NDArray[np.float64]

WEIGHTS = 0.1  # uniform in +- this at first, so that every edit is about as likely
REACH = 3.0  # standard deviations that an advantage counts at most
BASELINE_DECAY = 0.9


class PolicyNetwork(nn.Module):
    """A bidirectional LSTM over the genes: scores of every value of each gene, and of two edits of the whole row."""

    def __init__(self, genes: int, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.values = nn.Embedding(width + 1, hidden)
            self.places = nn.Embedding(genes, hidden)
            self.lstm = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
            self.of_gene = nn.Linear(2 * hidden, width)
            self.of_row = nn.Linear(2 * hidden, 2)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -WEIGHTS, WEIGHTS, generator=generator)

    def forward(self, population: Tensor) -> Tensor:
        """(n, genes), -1 where unused -> (n, edits)."""
        states, _ = self.lstm(self.values(population + 1) + self.places.weight)
        return torch.cat([self.of_gene(states).flatten(1), self.of_row(states.mean(dim=1))], dim=1)


@dataclass(frozen=True, eq=False)
class Choices:
    """Edits that were chosen: of which rows (n, genes), among which legal ones (n, edits), and which (n,)."""

    rows: Population
    legal: NDArray[np.bool_]
    chosen: NDArray[np.int64]

    @classmethod
    def join(cls, parts: list[Choices]) -> Choices:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "legal", "chosen")))

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Choices:
        return Choices(self.rows[which], self.legal[which], self.chosen[which])


class EditPolicy:
    """The policy network, its optimiser, and the moving averages that rewards are compared with.

    Args:
        genes, width: of the space: genes of a row, and the most values of one.
        entropy: weight of the entropy of the choices, which keeps the policy from deciding too early.
        seed: of the first weights.

    Source: REINFORCE (Williams, 1992) with a moving-average baseline; the advantage is counted in standard deviations
    of the rewards, so that the unit and spread of accuracies do not matter, which is ours.
    """

    def __init__(self, genes: int, width: int, *, hidden: int, lr: float, entropy: float, seed: int) -> None:
        self._network = PolicyNetwork(genes, width, hidden, torch.Generator().manual_seed(seed))
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=lr)
        self._entropy = entropy
        self._baselines: dict[str, float] = {}

    def probabilities(self, rows: Population, legal: NDArray[np.bool_]) -> Floats:
        """(n, edits), 0 for what is not legal; a row without legal edits has zeros."""
        with one_thread(), torch.inference_mode():
            logs = self._log_probabilities(rows, legal)
        return np.asarray(np.where(legal, np.exp(logs.double().numpy()), 0.0))

    def choose(self, rows: Population, legal: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) one edit of each row, drawn; -1 where none is legal."""
        total = np.cumsum(self.probabilities(rows, legal), axis=1)
        drawn = (total <= rng.random((len(rows), 1)) * total[:, -1:]).sum(axis=1)
        return np.where(legal.any(axis=1), np.minimum(drawn, legal.shape[1] - 1), -1)

    def learn(self, choices: Choices, rewards: Floats, *, source: str) -> None:
        """One step of REINFORCE: edits become likelier by how far their rewards (n,) are above the baseline.

        Args:
            source: where the rewards come from; each has its own baseline. What is trained is the best of what was
                predicted, so against one average of both all trained edits would look good, whatever came of them.
        """
        if not len(rewards):
            return
        with one_thread():
            self._learn(choices, self._advantage(rewards, source))

    def _advantage(self, rewards: Floats, source: str) -> Floats:
        """How far above the moving average of its source, in standard deviations; the average moves on."""
        mean, spread = float(rewards.mean()), float(rewards.std())
        baseline = self._baselines.get(source, mean)
        self._baselines[source] = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean
        scale = max(spread, abs(mean - baseline), 1e-9)
        return np.asarray(np.clip((rewards - baseline) / scale, -REACH, REACH))

    def _learn(self, choices: Choices, advantage: Floats) -> None:
        logs = self._log_probabilities(choices.rows, choices.legal)
        taken = logs[torch.arange(len(logs)), torch.from_numpy(choices.chosen)]
        entropy = -(logs.exp() * logs.masked_fill(~torch.from_numpy(choices.legal), 0.0)).sum(dim=1).mean()
        loss = -(taken * torch.from_numpy(advantage).float()).mean() - self._entropy * entropy
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimiser.step()

    def _log_probabilities(self, rows: Population, legal: NDArray[np.bool_]) -> Tensor:
        scores = self._network(torch.from_numpy(rows))
        masked: Tensor = scores.masked_fill(~torch.from_numpy(legal), -1e9)
        return masked.log_softmax(dim=1)
