"""What every evaluator promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from spaces import Arch


class Evaluator(ABC):
    """Says what an architecture scores. Evaluators cross process borders, so they are picklable and light."""

    @abstractmethod
    def evaluate(self, arch: Arch, *, epochs: float, seed: int) -> Mapping[str, float]:
        """Values by name, each in its natural direction: accuracy_val up, train_seconds down.

        Args:
            epochs: the fidelity; parts of epochs are allowed.
            seed: of everything that is drawn.
        Raises:
            TrainingFailed: if this candidate failed; others may well succeed.
        """

    def evaluate_trial(
        self, arch: Arch, *, epochs: float, seed: int, number: int, parent: tuple[int, Arch] | None
    ) -> Mapping[str, float]:
        """`evaluate` as a trial of a search, for evaluators that may use what an earlier trial left behind.

        Args:
            number: of the trial.
            parent: the number and network of the finished trial that this network was made from, if any.
        """
        del number, parent
        return self.evaluate(arch, epochs=epochs, seed=seed)
