"""Known data sets: against their sources, and what the splits promise."""

import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.training import ImageData, default_resolution, load_images
from hwnas.training.data import _mean_std
from hwnas.training.splits import held_out_test, stratified_split
from spaces import InputError, Task


def digits(seed=0, **options):
    return load_images("digits", root=Path("nowhere"), seed=seed, **options)


def as_counter(images, labels):
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_digits_are_scikit_learns_and_every_image_is_in_one_split():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = digits()
    test_images, test_labels = data.test()
    ours = (
        as_counter(data.train_images, data.train_labels)
        + as_counter(data.val_images, data.val_labels)
        + as_counter(test_images, test_labels)
    )
    theirs = np.rint(bunch.images / 16 * 255).astype(np.uint8)[:, None]
    assert ours == as_counter(theirs, bunch.target)
    assert data.task == Task(resolution=8, classes=10, channels=1)
    assert data.class_names == tuple("0123456789")
    assert not data.flip
    assert not data.photographs
    assert default_resolution("digits") == 8


def test_shares_hold_in_every_class():
    data = digits(validation_share=0.25, test_share=0.1)
    test = np.bincount(data.test()[1])
    val, train = np.bincount(data.val_labels), np.bincount(data.train_labels)
    total = test + val + train
    assert np.abs(test - 0.1 * total).max() <= 0.5
    assert np.abs(val - 0.25 * (total - test)).max() <= 0.5
    assert data.n_test == test.sum()


def test_the_seed_moves_validation_and_never_the_test_images():
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert first.fingerprint == again.fingerprint
    assert np.array_equal(first.val_images, again.val_images)
    assert not np.array_equal(first.val_images, other.val_images)
    assert first.fingerprint != other.fingerprint
    for one, two in zip(first.test(), other.test(), strict=True):
        assert np.array_equal(one, two)


def test_global_randomness_changes_nothing():
    first = digits()
    np.random.seed(99)  # noqa: NPY002  the global state must not matter
    torch.manual_seed(99)
    assert digits().fingerprint == first.fingerprint


def test_mean_and_std_are_numpys_over_the_training_images_only():
    data = digits()
    pixels = data.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_mean_and_std_of_many_images_need_little_memory():
    images = np.random.default_rng(0).integers(256, size=(2001, 3, 32, 32), dtype=np.uint8)
    tracemalloc.start()
    try:
        mean, std = _mean_std(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < images.nbytes / 2
    pixels = images / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_another_resolution_is_torchvisions_antialiased_resize():
    from torchvision.transforms import v2

    small, large = digits(), digits(resolution=20)
    expected = v2.Resize(20, antialias=True)(torch.from_numpy(small.val_images)).numpy()
    assert np.array_equal(large.val_images, expected)
    assert large.train_images.shape[1:] == large.task.input_shape == (1, 20, 20)


def test_saving_and_opening_gives_the_same_data(tmp_path):
    data = digits()
    data.save(tmp_path / "store")
    opened = ImageData.open(tmp_path / "store", fingerprint=data.fingerprint)
    for name in ("train_images", "train_labels", "val_images", "val_labels", "mean", "std"):
        assert np.array_equal(getattr(opened, name), getattr(data, name)), name
    for name in ("name", "task", "class_names", "flip", "photographs", "n_test", "fingerprint"):
        assert getattr(opened, name) == getattr(data, name), name
    assert isinstance(opened.train_images, np.memmap)
    for mapped, kept in zip(opened.test(), data.test(), strict=True):
        assert np.array_equal(mapped, kept)
    data.save(tmp_path / "store")  # the same once more is nothing to do
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_opening_does_not_touch_the_test_file(tmp_path):
    digits().save(tmp_path / "store")
    (tmp_path / "store" / "test_images.npy").unlink()
    opened = ImageData.open(tmp_path / "store")
    with pytest.raises(InputError, match="test images"):
        opened.test()


def test_other_or_damaged_data_is_noticed(tmp_path):
    data, store = digits(), tmp_path / "store"
    data.save(store)
    with pytest.raises(InputError, match=data.fingerprint):
        ImageData.open(store, fingerprint="another")
    with pytest.raises(InputError, match="must hold the data"):
        digits(seed=5).save(store)
    labels = np.load(store / "train_labels.npy")
    np.save(store / "train_labels.npy", labels[::-1])
    with pytest.raises(InputError, match="damaged"):
        ImageData.open(store)
    (store / "train_labels.npy").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        ImageData.open(store)
    (store / "train_labels.npy").unlink()
    with pytest.raises(InputError, match=r"train_labels\.npy is missing"):
        ImageData.open(store)
    with pytest.raises(InputError, match="does not hold prepared images"):
        ImageData.open(tmp_path / "absent")


def test_exchanged_test_images_are_noticed(tmp_path):
    data, store = digits(), tmp_path / "store"
    data.save(store)
    np.save(store / "test_labels.npy", data.test()[1][::-1])
    with pytest.raises(InputError, match="not those that were saved"):
        ImageData.open(store).test()


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    data = digits()
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match="No space left"):
        data.save(tmp_path / "store")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 7}, "between 8 and 1024"),
        ({"resolution": 5000}, "between 8 and 1024"),
        ({"validation_share": 0.0}, "validation images must lie between 0 and 1"),
        ({"validation_share": 1.0}, "validation images must lie between 0 and 1"),
        ({"test_share": -1}, "test images must lie between 0 and 1"),
    ],
)
def test_silly_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        digits(**options)


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_a_set_that_is_not_there_names_the_folder(name, tmp_path):
    folder = {"cifar10": "cifar-10-batches-py", "fashion-mnist": "FashionMNIST"}[name]
    with pytest.raises(InputError, match=folder) as caught:
        load_images(name, root=tmp_path, seed=0)
    assert "--data-root" in caught.value.hint
    assert not list(tmp_path.iterdir())  # nothing was fetched


def test_a_damaged_set_says_so(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80")
    with pytest.raises(InputError, match="incomplete or damaged"):
        load_images("cifar10", root=tmp_path, seed=0)


def test_a_failing_download_says_so(tmp_path, monkeypatch):
    from torchvision import datasets

    def unreachable(*_args, **options):
        assert options["download"]
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", unreachable)
    with pytest.raises(InputError, match=r"could not be downloaded.*no route to host"):
        load_images("cifar10", root=tmp_path, seed=0, download=True)


def test_fashion_mnist_is_what_its_files_hold(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels, labels = {}, {}
    for part, n in (("train", 60), ("t10k", 20)):
        pixels[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels[part] = (np.arange(n) % 10).astype(np.uint8)
        sizes = b"".join(int(size).to_bytes(4, "big") for size in (2051, n, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes + pixels[part].tobytes())
        sizes = b"".join(int(size).to_bytes(4, "big") for size in (2049, n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(sizes + labels[part].tobytes())
    data = load_images("fashion-mnist", root=tmp_path, seed=0)
    assert data.task == Task(28, 10, 1)
    assert data.flip
    assert np.array_equal(data.test()[0][:, 0], pixels["t10k"])
    assert np.array_equal(data.test()[1], labels["t10k"])
    learned = as_counter(data.train_images, data.train_labels) + as_counter(data.val_images, data.val_labels)
    assert learned == as_counter(pixels["train"], labels["train"])


def test_cifar10_is_torchvisions(cifar10_root):
    from torchvision.datasets import CIFAR10

    data = load_images("cifar10", root=cifar10_root, seed=0, validation_share=0.1)
    test = CIFAR10(cifar10_root, train=False)
    assert np.array_equal(data.test()[0].transpose(0, 2, 3, 1), test.data)
    assert data.test()[1].tolist() == test.targets
    assert np.bincount(data.val_labels).tolist() == [500] * 10
    assert np.bincount(data.train_labels).tolist() == [4500] * 10
    train = CIFAR10(cifar10_root, train=True)
    learned = as_counter(data.train_images, data.train_labels) + as_counter(data.val_images, data.val_labels)
    assert learned == as_counter(train.data.transpose(0, 3, 1, 2), train.targets)
    assert data.class_names == tuple(train.classes)
    np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=1e-3)  # as commonly quoted
    np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=1e-3)


def test_torchvision_is_not_imported_before_images_are_read():
    import subprocess

    code = "import sys, hwnas.training, hwnas.evaluation; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_added_images_move_few_test_images():
    keys = [f"{i % 2}/{i}.jpg" for i in range(200)]
    labels = np.arange(200) % 2
    _, before = held_out_test(labels, keys, 0.2, ("a", "b"))
    _, after = held_out_test(np.append(labels, 0), [*keys, "0/new.jpg"], 0.2, ("a", "b"))
    assert len({keys[i] for i in before} & {([*keys, "new"])[i] for i in after}) >= len(before) - 1


def test_no_class_is_left_without_training_or_validation_images():
    labels = np.array([0] * 2 + [1] * 50)
    for share in (0.01, 0.99):
        rest, taken = stratified_split(labels, share, np.random.default_rng(0), ("a", "b"))
        assert sorted([*rest, *taken]) == list(range(52))
        assert set(labels[rest]) == set(labels[taken]) == {0, 1}
    with pytest.raises(InputError, match="class 'a' has 1 image"):
        stratified_split(labels[1:], 0.5, np.random.default_rng(0), ("a", "b"))
