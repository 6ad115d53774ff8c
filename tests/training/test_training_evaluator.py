"""Scoring by training, and the interval of the test accuracy."""

import concurrent.futures as cf
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from hwnas.evaluation import TrainingEvaluator, wilson_interval
from hwnas.training import Recipe, TrainingFailed, evaluate, load_images
from spaces import InputError, get_space

SMALL = "proxyless@8,8x1,16x2s2,32"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_images("digits", root=tmp_path_factory.mktemp("root"), seed=0)


@pytest.fixture(scope="module")
def evaluator(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "data"
    data.save(folder)
    return TrainingEvaluator(get_space(SMALL), folder)


@pytest.fixture(scope="module")
def archs(evaluator):
    return [evaluator.space.arch(row) for row in evaluator.space.sample(2, np.random.default_rng(0))]


def test_another_process_finds_the_same_and_failures_come_back(evaluator, archs):
    doomed = TrainingEvaluator(evaluator.space, evaluator.data_folder, Recipe(lr=1e30))
    here = evaluator.evaluate(archs[0], epochs=1, seed=5)
    with cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(evaluator.evaluate, archs[0], epochs=1, seed=5).result()
        with pytest.raises(TrainingFailed, match="diverged"):
            pool.submit(doomed.evaluate, archs[0], epochs=2, seed=0).result()
    assert here.keys() == there.keys() == {"accuracy_val", "train_seconds", "train_s_per_image"}
    assert 0 < here["train_s_per_image"] < here["train_seconds"]
    assert "train_s_per_image" not in evaluator.evaluate(archs[0], epochs=0.01, seed=5)  # of first steps alone
    assert here["accuracy_val"] == there["accuracy_val"]
    assert len(pickle.dumps(evaluator)) < 5000


def test_final_weights_give_the_accuracies(evaluator, archs, data, tmp_path):
    path = tmp_path / "models" / "one" / "weights.pt"
    values = evaluator.train_final(archs[0], epochs=1, seed=5, weights=path)
    assert values["accuracy_val"] == evaluator.evaluate(archs[0], epochs=1, seed=5)["accuracy_val"]
    assert [file.name for file in path.parent.iterdir()] == ["weights.pt"]

    module = evaluator.space.build(archs[0], data.task)
    module.load_state_dict(torch.load(path, weights_only=True))
    images, labels = data.test()
    accuracy, correct = evaluate(module, images, labels, mean=data.mean, std=data.std, device="cpu")
    tested = evaluator.test_accuracy(archs[0], path)
    low, high = binomtest(int(correct.sum()), len(labels)).proportion_ci(0.95, method="wilson")
    assert tested["accuracy_test"] == pytest.approx(accuracy, abs=1.5 / len(labels))
    assert tested["accuracy_test_low"] == pytest.approx(low, abs=0.01)
    assert tested["accuracy_test_high"] == pytest.approx(high, abs=0.01)


def test_only_the_test_accuracy_reads_the_test_split(data, archs, tmp_path):
    data.save(tmp_path / "data")
    (tmp_path / "data" / "test_images.npy").unlink()
    evaluator = TrainingEvaluator(get_space(SMALL), tmp_path / "data")
    evaluator.evaluate(archs[0], epochs=1, seed=0)
    evaluator.train_final(archs[0], epochs=1, seed=0, weights=tmp_path / "weights.pt")
    evaluator.time(archs[0], seed=0, batches=1)
    with pytest.raises(InputError, match="test images"):
        evaluator.test_accuracy(archs[0], tmp_path / "weights.pt")


def test_weights_of_another_network_are_refused(evaluator, archs, tmp_path):
    assert archs[0] != archs[1]
    path = tmp_path / "weights.pt"
    evaluator.train_final(archs[0], epochs=1, seed=0, weights=path)
    with pytest.raises(InputError, match="does not hold the weights of"):
        evaluator.test_accuracy(archs[1], path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="does not hold the weights of"):
        evaluator.test_accuracy(archs[0], path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="does not hold the weights of"):
        evaluator.test_accuracy(archs[0], path)
    with pytest.raises(InputError, match="cannot be read"):
        evaluator.test_accuracy(archs[0], tmp_path / "absent.pt")


def test_a_failed_save_leaves_the_old_weights(evaluator, archs, tmp_path):
    """In a process that may write no file of more than 1000 bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="there are no such limits here")
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    with cf.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=resource.setrlimit,
        initargs=(resource.RLIMIT_FSIZE, (1000, 1000)),
    ) as pool:
        saving = pool.submit(evaluator.train_final, archs[0], epochs=0.1, seed=0, weights=path)
        with pytest.raises(InputError, match="cannot be written"):
            saving.result()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_auxiliary_head_is_trained_but_not_kept(evaluator, data, tmp_path):
    space = get_space("pnas@1x4")
    arch = space.arch(space.sample(1, np.random.default_rng(1))[0])
    with_head = TrainingEvaluator(space, evaluator.data_folder)
    without = TrainingEvaluator(space, evaluator.data_folder, Recipe(auxiliary_weight=0.0))
    states = []
    for number, trainer in enumerate((with_head, without)):
        path = tmp_path / f"{number}.pt"
        values = trainer.finish(arch, epochs=0.1, seed=0, weights=path)
        assert 0 <= values["accuracy_test"] <= 1
        states.append(torch.load(path, weights_only=True))
    assert states[0].keys() == states[1].keys() == space.build(arch, data.task).state_dict().keys()
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_timing_says_what_planning_needs(evaluator, archs):
    timed = evaluator.time(archs[0], seed=0, batches=2)
    assert 0 < timed.validation_s_per_image < timed.train_s_per_image < 1
    assert 0 < timed.setup_s < 60


def test_the_number_of_threads_is_put_back(evaluator, archs):
    before = torch.get_num_threads()
    TrainingEvaluator(evaluator.space, evaluator.data_folder, threads=2).time(archs[0], seed=0, batches=1)
    assert torch.get_num_threads() == before


def test_an_architecture_of_another_space_is_the_users_mistake(evaluator):
    space = get_space("proxyless@w0.25")
    arch = space.arch(space.sample(1, np.random.default_rng(0))[0])
    with pytest.raises(InputError, match="of the space"):
        evaluator.evaluate(arch, epochs=1, seed=0)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (1, 3), (340, 359), (9999, 10000)])
def test_the_interval_is_scipys(correct, n, confidence):
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(correct, n, confidence=confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_an_interval_of_nothing_is_refused(correct, n):
    with pytest.raises(ValueError, match="correct must lie in"):
        wilson_interval(correct, n)
