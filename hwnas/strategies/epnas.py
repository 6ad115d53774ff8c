"""EPNAS: a policy makes many networks progress side by side by small edits; a predictor says which to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.feasible import FeasibleSet
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from hwnas.soft_limits import SoftLimit, reward_by_estimates
from spaces import InputError, Population

from .edit_policy import Choices, EditPolicy, Floats
from .edits import Edits
from .neural_predictor import cost_axis, soft_picks
from .surrogate_search import SurrogateSearch

MORE_SIMPLE = (1, 8, 64)  # times as many of the simplest networks are asked for, until enough meet the limits
WALKED_PART = 8
GENES_AT_ONCE = 1 << 23  # 64 MiB
HIDDEN, LEARNING_RATE, ENTROPY = 32, 0.01, 0.02


class EPNAS(SurrogateSearch):
    """Progressive search: `n_simple` of the simplest networks and `n_random` others, then `batch` at a time.

    Before each batch the `networks` best so far (by the predictor's mean reward), in `rollouts` independent ways, and
    `fresh` drawn ones are edited `steps` times by a policy that reads the network as it stands: it inserts a layer,
    block or vertex, removes one, or gives one another operation, kernel, expansion or input. Edits that leave the hard
    limits are void: the network stays as it was, and the reward of the edit is 0. The policy learns by REINFORCE,
    `updates` times from the predicted rewards of what it made, and once from the true rewards of what was trained of
    the last batch. Of all networks that it made on the way, those that are new and have the highest hope, the bound of
    beta stds times what the soft limits leave, are trained.

    This is our reading: of EPNAS the parallel networks, REINFORCE with a moving average, the predictor that screens,
    the reward and its limits; of RENA the edits. Ours are the parameters, the state (one LSTM over genes), that the
    policy learns from predicted rewards too, the bound of hope, and which networks go on.

    Args:
        soft: limits that may be missed at a price; those of the feasible set are hard.
        focus: share of a batch, and of the networks that go on, that has the highest hope or reward; the others lie on
            the soft front, spread along the cost axis.
        surrogate: what screens: a `GaussianProcess` by default; by the GCN, `GraphSurrogate(GCNPredictor())`, which
            takes far longer to fit.

    Source: Zhou et al., EPNAS: Efficient Progressive Neural Architecture Search, 1907.04648; Zhou et al., RENA:
    Resource-Efficient Neural Architect, 1806.07912.
    """

    def __init__(
        self,
        *,
        n_simple: int = 5,
        n_random: int = 5,
        networks: int = 10,
        fresh: int = 100,
        batch: int = 5,
        steps: int = 3,
        rollouts: int = 16,
        updates: int = 3,
        beta: float = 1.0,
        focus: float = 1.0,
        soft: Sequence[SoftLimit] = (),
        surrogate: Surrogate | None = None,
    ) -> None:
        counts = {"networks": networks, "batch": batch, "steps": steps, "rollouts": rollouts, "updates": updates}
        wrong = [f"{name} = {value}" for name, value in counts.items() if value < 1]
        if wrong or min(n_simple, n_random, fresh) < 0 or n_simple + n_random < 1 or beta < 0 or not 0 <= focus <= 1:
            raise InputError(
                "EPNAS needs networks, batch, steps, rollouts and updates of at least 1, something to start from, "
                f"fresh and beta of at least 0 and a focus in 0..1; got {', '.join(wrong)}, n_simple = {n_simple}, "
                f"n_random = {n_random}, fresh = {fresh}, beta = {beta}, focus = {focus}"
            )
        self.n_simple = n_simple
        self.n_random = n_random
        self.networks = networks
        self.fresh = fresh
        self.batch = batch
        self.steps = steps
        self.rollouts = rollouts
        self.updates = updates
        self.beta = beta
        self.focus = focus
        self.soft = tuple(soft)
        self.surrogate = GaussianProcess() if surrogate is None else surrogate

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        if self.soft and feasible.costs is None:
            raise InputError(f"the soft limits {', '.join(map(str, self.soft))} need costs, and none were given")
        super().start(feasible, seed)
        self._edits = Edits(feasible.space)
        self._policy = EditPolicy(
            len(feasible.space.choices),
            self._edits.width,
            hidden=HIDDEN,
            lr=LEARNING_RATE,
            entropy=ENTROPY,
            seed=seed,
        )
        self._made: dict[int, list[Choices]] = {}  # the edits that made each network of the last batch, by number
        self._parents: dict[int, int] = {}

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            return self._first_networks(rng)
        self._learn_from_trained()
        fitted = self.fitted(first)
        if fitted is None:
            return self.draw_hopeful(first, self.batch, rng)
        parents = np.repeat(self._going_on(first, fitted), self._few(self.rollouts))
        grown = self._stacked([self._told_rows[i] for i in parents])
        walks = []
        for _ in range(self.updates):
            drawn = self.feasible.sample(self._few(self.fresh), rng)
            walk = self._walk(np.concatenate([grown, drawn]), rng)
            walk.teach(self._policy, self.worth(fitted.predict(walk.ends)[0], walk.ends))
            walks.append(walk)
        return self._screened(first, fitted, parents, walks, rng)

    def _few(self, n: int) -> int:
        """Fewer where the latency of every single network has to be estimated from its layers, which takes long."""
        asked = ["latency_ms"] if self.focus < 1 else []
        asked += [limit.name for limit in (*self.feasible.limits, *(each.limit for each in self.soft))]
        return -(-n // WALKED_PART) if any(map(self.feasible.walks, asked)) else n

    def parent(self, number: int) -> int | None:
        """The trial whose network was edited to make this proposal, None where it was drawn."""
        return self._parents.get(number)

    def worth(self, accuracies: Floats, rows: Population) -> Floats:
        return reward_by_estimates(accuracies, self.soft, self.feasible, rows)

    def _first_networks(self, rng: np.random.Generator) -> Population:
        space, inner = self.feasible.space, self._edits.inner
        rows = np.empty((0, len(space.choices)), dtype=np.int64)
        for times in MORE_SIMPLE if self.n_simple else ():
            rows = inner.simplest(times * self.n_simple, rng)
            rows = rows[space.is_valid(rows)]
            rows = rows[self.feasible.holds(rows)][: self.n_simple]
            if len(rows) == self.n_simple:
                break
        wanted = self.n_simple + self.n_random - len(rows)
        drawn = self.feasible.distinct(wanted, rng, exclude=rows)
        return np.concatenate([rows, drawn]) if len(rows) + len(drawn) else self.feasible.sample(1, rng)

    def _going_on(self, first: int, fitted: FittedSurrogate) -> NDArray[np.int64]:
        """The numbers of the trials before `first` whose networks are edited further."""
        numbers, rewards = self._trained(first, fitted)
        rows = self._stacked([self._told_rows[i] for i in numbers])
        return np.asarray(numbers[self._picks(rows, rewards, self.networks)])

    def _trained(self, first: int, fitted: FittedSurrogate) -> tuple[NDArray[np.int64], Floats]:
        """The numbers of the trials of different networks before `first` that succeeded, and their mean rewards."""
        trained: NDArray[np.int64] = np.flatnonzero(np.isfinite(self.told_accuracies()[:first]))
        rows = self.rows_before(first)[trained]
        distinct = np.unique(self.feasible.space.canonical(rows), axis=0, return_index=True)[1]
        return trained[distinct], self.worth(fitted.predict(rows[distinct])[0], rows[distinct])

    def _walk(self, starts: Population, rng: np.random.Generator) -> _Walk:
        """Edit every network `steps` times, one edit after another, by the policy as it is."""
        rows = starts
        choices, made, voids = [], [], []
        for _ in range(self.steps):
            steps = [self._edited(part, rng) for part in self._parts(rows)]
            choices.append(Choices.join([chosen for chosen, _ in steps]))
            after = np.concatenate([made for _, made in steps])
            holds = self.feasible.holds(after)
            voids.append(~holds)
            rows = np.where(holds[:, None], after, rows)
            made.append(rows)
        return _Walk(choices, np.stack(made), np.stack(voids))

    def _edited(self, rows: Population, rng: np.random.Generator) -> tuple[Choices, Population]:
        """One edit of every row; rows that have none stay as they are."""
        children, legal = self._edits.of(rows, rng)
        chosen = self._policy.choose(rows, legal, rng)
        made = np.where((chosen >= 0)[:, None], children[np.arange(len(rows)), chosen], rows)
        return Choices(rows, legal, chosen), made

    def _parts(self, rows: Population) -> list[Population]:
        """As many rows at once as the genes of all their children fit into bounded memory."""
        size = max(1, GENES_AT_ONCE // (self._edits.number * rows.shape[1]))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _screened(
        self,
        first: int,
        fitted: FittedSurrogate,
        parents: NDArray[np.int64],
        walks: list[_Walk],
        rng: np.random.Generator,
    ) -> Population:
        """The batch: the most promising new networks of the walks, and drawn ones where those are too few."""
        known = self.rows_before(first)
        rows = np.concatenate([walk.made.reshape(-1, known.shape[1]) for walk in walks])
        keys = self.feasible.space.canonical(np.concatenate([known, rows]))
        at = np.unique(keys, axis=0, return_index=True)[1]
        new = np.sort(at[at >= len(known)]) - len(known)
        picks = new[self._hopeful(fitted, rows[new])] if len(new) else new
        self._made = {}
        for number, place in enumerate(picks, start=first):
            walk, step, row = np.unravel_index(place, (len(walks), *walks[0].voids.shape))
            self._made[number] = walks[int(walk)].edits(int(step), int(row))
            if row < len(parents):
                self._parents[number] = int(parents[row])
        lacking = self.batch - len(picks)
        others = self.draw_after(first, lacking, rng) if lacking else known[:0]
        return np.concatenate([rows[picks], others])

    def _hopeful(self, fitted: FittedSurrogate, rows: Population) -> NDArray[np.int64]:
        return self._picks(rows, self.worth(fitted.believe(rows).at(self.beta), rows), self.batch)

    def _picks(self, rows: Population, worth: Floats, n: int) -> NDArray[np.int64]:
        if self.focus == 1.0:
            return np.asarray(np.argsort(-worth, kind="stable")[:n])
        picks, _ = soft_picks(cost_axis(self.feasible, rows), worth, min(n, len(rows)), focus=self.focus)
        return picks

    def _learn_from_trained(self) -> None:
        """The edits that led to each network of the last batch are worth what it turned out to be worth."""
        numbers = [number for number, edits in self._made.items() if edits]
        if not numbers:
            return
        rows = self._stacked([self._told_rows[number] for number in numbers])
        failed_as_0 = np.maximum(self.told_accuracies()[numbers], 0.0)
        edits = [self._made[number] for number in numbers]
        self._policy.learn(
            Choices.join([each for made in edits for each in made]),
            np.repeat(self.worth(failed_as_0, rows), [len(made) for made in edits]),
            source="trained",
        )


@dataclass(frozen=True, eq=False)
class _Walk:
    """Edits of m rows, step after step.

    Attributes:
        choices: of each step.
        made: (steps, m, genes) the rows after each step.
        voids: (steps, m) where a step left the limits, and so made nothing.
    """

    choices: list[Choices]
    made: Population
    voids: NDArray[np.bool_]

    @property
    def ends(self) -> Population:
        return np.asarray(self.made[-1])

    def teach(self, policy: EditPolicy, rewards: Floats) -> None:
        """Every edit is worth the reward (m,) of the network at the end, a void one 0."""
        chose = [each.chosen >= 0 for each in self.choices]
        worth = [np.where(void, 0.0, rewards) for void in self.voids]
        policy.learn(
            Choices.join([each[which] for each, which in zip(self.choices, chose, strict=True)]),
            np.concatenate([each[which] for each, which in zip(worth, chose, strict=True)]),
            source="predicted",
        )

    def edits(self, step: int, row: int) -> list[Choices]:
        """Those that made the network of a row after a step, one after another."""
        return [
            each[np.array([row])]
            for each, void in zip(self.choices[: step + 1], self.voids, strict=False)
            if each.chosen[row] >= 0 and not void[row]
        ]
