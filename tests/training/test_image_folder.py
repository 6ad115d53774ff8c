"""Folders of images: against torchvision's ImageFolder, and every way in which a folder can be wrong."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.training import ImageData, default_resolution, load_images
from spaces import InputError, Task

PER_CLASS = 6
CLASSES = ("ants", "bees")


def picture(rng, width=60, height=40, mode="RGB"):
    """Smooth, so that lossy formats and resizing keep it."""
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def fill(folder, classes=CLASSES, per_class=PER_CLASS, extension="png", seed=0, **options):
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            picture(rng, **options).save(folder / name / f"{seed}-{i}.{extension}")
    return folder


def load(folder, **options):
    return load_images(str(folder), root=folder, seed=0, **{"resolution": 16, **options})


def test_reads_what_torchvisions_imagefolder_reads(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    for seed, split in enumerate(("train", "val", "test")):
        fill(tmp_path / split, extension="jpg", seed=seed, width=60 + 7 * seed)
    data = load(tmp_path)

    def expected(split, crop):
        on_pillow = v2.Compose([v2.Resize(18), v2.CenterCrop(crop), v2.PILToTensor()])
        pairs = list(ImageFolder(tmp_path / split, transform=on_pillow))
        return torch.stack([image for image, _ in pairs]).numpy(), [label for _, label in pairs]

    for split, crop, images, labels in (
        ("train", 18, data.train_images, data.train_labels),
        ("val", 16, data.val_images, data.val_labels),
        ("test", 16, *data.test()),
    ):
        theirs, their_labels = expected(split, crop)
        assert np.array_equal(images, theirs), split
        assert labels.tolist() == their_labels
    assert data.class_names == CLASSES
    assert data.photographs
    assert data.flip


@pytest.mark.parametrize("alias", ["val", "valid", "validation"])
def test_every_name_of_the_validation_split_is_known(tmp_path, alias):
    fill(tmp_path / "train", per_class=10)
    fill(tmp_path / alias, per_class=4, seed=1)
    data = load(tmp_path)
    assert np.bincount(data.val_labels).tolist() == [4, 4]
    assert np.bincount(data.test()[1]).tolist() == [2, 2]
    assert np.bincount(data.train_labels).tolist() == [8, 8]


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing")])
def test_splits_are_known_in_any_case_and_by_their_long_names(tmp_path, names):
    for seed, name in enumerate(names):
        fill(tmp_path / name, classes=("Ants", "ants-small"), seed=seed)
    data = load(tmp_path)
    assert data.class_names == ("Ants", "ants-small")
    assert data.n_test == 2 * PER_CLASS
    assert len(data.train_labels) + len(data.val_labels) == 2 * PER_CLASS


def test_an_unsplit_folder_is_split_into_disjoint_parts(tmp_path):
    fill(tmp_path, per_class=20, width=16, height=16)
    data = load(tmp_path)
    parts = [{image.tobytes() for image in part} for part in (data.train_images, data.val_images, data.test()[0])]
    assert [len(part) for part in parts] == [26, 6, 8]
    assert len(set.union(*parts)) == 40
    other = load_images(str(tmp_path), root=tmp_path, seed=1, resolution=16)
    assert np.array_equal(other.test()[0], data.test()[0])


def test_small_equal_squares_are_used_as_they_are(tmp_path):
    fill(tmp_path, width=20, height=20)
    data = load(tmp_path, resolution=None)
    assert data.task == Task(20, 2, 3)
    assert not data.photographs
    files = {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in tmp_path.rglob("*.png")}
    kept = {image.tobytes() for part in (data.train_images, data.val_images, data.test()[0]) for image in part}
    assert kept == files
    assert default_resolution(str(tmp_path)) == 20


def test_photographs_are_used_at_96_pixels(tmp_path):
    fill(tmp_path, width=130, height=100)
    data = load(tmp_path, resolution=None)
    assert data.task.resolution == default_resolution(str(tmp_path)) == 96
    assert data.train_images.shape[1:] == (3, 110, 110)
    assert data.val_images.shape[1:] == (3, 96, 96)


def test_all_grey_stays_one_channel_and_one_colour_image_makes_all_rgb(tmp_path):
    fill(tmp_path, mode="L", width=16, height=16)
    grey = load(tmp_path)
    assert grey.task.channels == 1
    assert grey.train_images.shape[1] == 1
    picture(np.random.default_rng(9), 16, 16).save(tmp_path / "ants" / "colour.png")
    mixed = load(tmp_path)
    assert mixed.task.channels == 3
    is_grey = [(image == image[:1]).all() for image in mixed.train_images]
    assert sum(is_grey) >= len(is_grey) - 1


def test_modes_agree_with_pillows_conversion(tmp_path):
    rng = np.random.default_rng(0)
    base = picture(rng, 16, 16)
    fill(tmp_path, width=16, height=16)
    for split in ("val", "test"):
        fill(tmp_path / split, width=16, height=16, seed=1)
    (tmp_path / "train").mkdir()
    for name in CLASSES:
        (tmp_path / name).rename(tmp_path / "train" / name)
    ants = tmp_path / "val" / "ants"
    for file in ants.iterdir():
        file.unlink()
    base.convert("P").save(ants / "0-palette.png")
    base.convert("RGBA").save(ants / "1-alpha.png")
    base.convert("L").save(ants / "2-grey.png")
    base.convert("CMYK").save(ants / "3-cmyk.tiff")
    deep = np.asarray(base.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(ants / "4-deep.png")
    (ants / "5-deep.ppm").write_bytes(b"P5 16 16 65535\n" + deep.astype(">u2").tobytes())
    Image.fromarray(deep.astype(">u2")).save(ants / "6-deep.tiff")
    images = load(tmp_path).val_images[:7].transpose(0, 2, 3, 1)
    for i, mode in enumerate(("P", "RGBA", "L", "CMYK", "L", "L", "L")):
        assert np.array_equal(images[i], np.asarray(base.convert(mode).convert("RGB"))), i


def test_the_orientation_that_a_camera_wrote_is_respected(tmp_path):
    fill(tmp_path / "train", width=16, height=16)
    fill(tmp_path / "test", width=16, height=16, seed=2)
    for i, name in enumerate(CLASSES):
        upright = picture(np.random.default_rng(i), 16, 16)
        (tmp_path / "val" / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "val" / name / "turned.png", exif=exif)
    data = load(tmp_path)
    for i in range(2):
        expected = np.asarray(picture(np.random.default_rng(i), 16, 16)).transpose(2, 0, 1)
        assert np.array_equal(data.val_images[i], expected)


def test_a_very_long_image_does_not_need_boundless_memory(tmp_path):
    fill(tmp_path)
    Image.new("RGB", (30000, 2), (10, 20, 30)).save(tmp_path / "ants" / "long.png")
    data = load(tmp_path, resolution=64)
    assert data.task.resolution == 64


def test_a_large_jpeg_is_close_to_its_full_decoding(tmp_path):
    from torchvision.transforms import v2

    for split in ("train", "val", "test"):
        fill(tmp_path / split, extension="jpg", width=900, height=700, per_class=2)
    data = load(tmp_path, resolution=32)
    with Image.open(tmp_path / "val" / "ants" / "0-0.jpg") as image:
        expected = np.asarray(v2.Compose([v2.Resize(37), v2.CenterCrop(32)])(image), dtype=float)
    assert np.abs(data.val_images[0].transpose(1, 2, 0) - expected).mean() < 2


def test_debris_of_operating_systems_is_no_data(tmp_path):
    fill(tmp_path)
    before = load(tmp_path).fingerprint
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "ants" / "._0-0.png").write_bytes(b"junk")
    (tmp_path / "ants" / "Thumbs.db").write_bytes(b"junk")
    assert load(tmp_path).fingerprint == before


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, classes=("cars", "planes", "train"))
    assert load(tmp_path).class_names == ("cars", "planes", "train")


def test_images_of_a_class_may_lie_in_folders_below_it(tmp_path):
    fill(tmp_path / "ants", classes=("images",))
    fill(tmp_path / "bees", classes=("images",), seed=1)
    assert load(tmp_path).class_names == CLASSES
    fill(tmp_path / "wasps", classes=("black", "yellow"), seed=2)
    (tmp_path / "ants" / "images").rename(tmp_path / "ants" / "red")
    assert load(tmp_path).class_names == (*CLASSES, "wasps")


def test_folders_without_images_may_lie_beside_the_splits(tmp_path):
    for seed, split in enumerate(("train", "test")):
        fill(tmp_path / split, seed=seed)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.csv").write_text("")
    assert load(tmp_path).class_names == CLASSES
    picture(np.random.default_rng(9)).save(tmp_path / "train" / "stray.png")
    assert load(tmp_path).class_names == CLASSES


def test_a_known_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    fill(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert load_images("digits", root=tmp_path, seed=0).task.classes == 10
    assert load_images("./digits", root=tmp_path, seed=0).task.classes == 2


def test_another_pixel_is_another_fingerprint(tmp_path):
    fill(tmp_path, width=16, height=16)
    first = load(tmp_path).fingerprint
    changed = np.asarray(Image.open(tmp_path / "ants" / "0-0.png")).copy()
    changed[0, 0] ^= 255
    Image.fromarray(changed).save(tmp_path / "ants" / "0-0.png")
    assert load(tmp_path).fingerprint != first


def test_copies_across_splits_are_reported(tmp_path, caplog):
    fill(tmp_path / "train")
    fill(tmp_path / "val", seed=1)
    fill(tmp_path / "test")
    load(tmp_path)
    assert "12 of 12 test images also stand among the training" in caplog.text
    assert "validation accuracy" not in caplog.text


def test_copies_between_training_and_validation_are_reported(tmp_path, caplog):
    fill(tmp_path / "train")
    fill(tmp_path / "test", seed=1)
    fill(tmp_path / "val", seed=2)
    copied = (tmp_path / "train" / "ants" / "0-0.png").read_bytes()
    (tmp_path / "val" / "ants" / "copy.png").write_bytes(copied)
    load(tmp_path)
    (record,) = caplog.records
    assert "1 of 13 validation images also stand among the training images" in record.getMessage()


def test_distinct_splits_are_not_reported(tmp_path, caplog):
    fill(tmp_path, per_class=10)
    load(tmp_path)
    assert not caplog.records


def refused(folder, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        load(folder, **options)
    text = f"{caught.value} {caught.value.hint}"
    assert "\n" not in text
    assert caught.value.hint
    return text


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "absent", "neither a known data set nor a folder")
    with pytest.raises(InputError) as caught:
        load_images("cifar-10", root=tmp_path, seed=0)
    assert "did you mean cifar10?" in caught.value.hint


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"")
    refused(tmp_path / "images.zip", "is a file, not a folder")


def test_no_class_folders(tmp_path):
    refused(tmp_path, "has no class folders")
    picture(np.random.default_rng(0)).save(tmp_path / "lonely.png")
    refused(tmp_path, "has no class folders")
    (tmp_path / "train").mkdir()
    refused(tmp_path, "train has no class folders")


def test_no_train_folder(tmp_path):
    fill(tmp_path / "val")
    fill(tmp_path / "test")
    refused(tmp_path, "no train folder")


def test_classes_beside_a_split_are_not_dropped(tmp_path):
    fill(tmp_path, classes=("car", "plane"))
    fill(tmp_path / "train", classes=("steam", "diesel"))
    text = refused(tmp_path, "has train with class folders inside, and beside it car, plane with images")
    assert "put the images directly into each" in text
    (tmp_path / "train").rename(tmp_path / "Test")
    refused(tmp_path, "has Test with class folders inside, and beside it car, plane with images")


def test_splits_of_unknown_names_do_not_become_classes(tmp_path):
    for seed, split in enumerate(("training_set", "test_set")):
        fill(tmp_path / split, seed=seed)
    text = refused(tmp_path, r"test_set, training_set in .* folders of the same names \(ants, bees\)")
    assert "train, val and test" in text


def test_two_validation_folders(tmp_path):
    for split in ("train", "val", "valid"):
        fill(tmp_path / split)
    refused(tmp_path, "has both val and valid")


def test_an_empty_class_folder(tmp_path):
    fill(tmp_path)
    (tmp_path / "wasps").mkdir()
    text = refused(tmp_path, "wasps holds no images")
    assert ".jpeg" in text


def test_zero_images(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
    refused(tmp_path, "ants holds no images")


def test_one_class_only(tmp_path):
    fill(tmp_path, classes=("ants",))
    refused(tmp_path, r"one class only \(ants\)")


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_differ_between_splits(tmp_path, split):
    fill(tmp_path / "train")
    fill(tmp_path / split, classes=("ants", "wasps"))
    refused(tmp_path, f"{split} differ.*lacks bees and has wasps besides")


@pytest.mark.parametrize("per_class", [1, 2])
def test_too_few_images_of_a_class(tmp_path, per_class):
    fill(tmp_path)
    fill(tmp_path, classes=("wasps",), per_class=per_class)
    refused(tmp_path, "class 'wasps' has 1 image")


def test_three_images_a_class_are_enough(tmp_path):
    fill(tmp_path, per_class=3)
    data = load(tmp_path)
    assert (len(data.train_labels), len(data.val_labels), data.n_test) == (2, 2, 2)


def test_damaged_images_are_counted_and_named(tmp_path):
    fill(tmp_path, extension="jpg", per_class=10)
    (tmp_path / "ants" / "0-1.jpg").write_bytes(b"this is no image")
    whole = (tmp_path / "bees" / "0-2.jpg").read_bytes()
    (tmp_path / "bees" / "0-2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bees" / "0-3.jpg").write_bytes(b"")
    text = refused(tmp_path, "3 of 20 images cannot be read")
    for name in ("0-1.jpg", "0-2.jpg", "0-3.jpg"):
        assert name in text
    (tmp_path / "ants" / "0-1.jpg").unlink()
    (tmp_path / "bees" / "0-3.jpg").unlink()
    assert "truncated" in refused(tmp_path, "1 of 18 images cannot be read").lower()


def test_many_damaged_images_are_not_all_listed(tmp_path):
    fill(tmp_path, per_class=10)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"junk")
    assert len(refused(tmp_path, "20 of 20 images cannot be read.* and 15 more")) < 2000


def test_floating_point_pixels_are_refused(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.ones((20, 20), dtype=np.float32)).save(tmp_path / "ants" / "float.tiff")
    refused(tmp_path, r"1 of 13 images cannot be read: .*float\.tiff \(its pixels are floating-point")


def test_integers_of_32_bits_are_refused(tmp_path):
    fill(tmp_path, mode="L")
    Image.fromarray(np.full((20, 20), 200, dtype=np.int32)).save(tmp_path / "ants" / "integer.tiff")
    refused(tmp_path, r"1 of 13 images cannot be read: .*integer\.tiff \(its pixels are signed or 32-bit integers")


def test_an_unreadable_file_and_folder(tmp_path, monkeypatch):
    fill(tmp_path)
    secret = tmp_path / "ants" / "0-0.png"
    opened = Image.open

    def guarded(file, *args, **options):  # the administrator reads everything, so permissions are played here
        if file == secret:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", guarded)
        refused(tmp_path, r"1 of 12 images cannot be read: .*0-0\.png \(Permission denied\)")
    if os.geteuid() == 0:
        pytest.skip("run as the administrator, who may read every folder")
    (tmp_path / "ants").chmod(0)
    try:
        refused(tmp_path, "cannot be read: Permission denied")
    finally:
        (tmp_path / "ants").chmod(0o755)


def test_a_folder_can_be_saved_and_moved(tmp_path):
    fill(tmp_path / "pictures")
    data = load(tmp_path / "pictures")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint == data.fingerprint
    data.save(tmp_path / "store")
    assert ImageData.open(tmp_path / "store").name == str(tmp_path / "pictures")


def test_flowers_keep_their_own_splits(flowers):
    data = load_images(str(flowers), root=flowers, seed=0, resolution=32)
    assert (len(data.train_labels), len(data.val_labels), data.n_test) == (1986, 500, 500)
    assert data.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    for split, labels in (("train", data.train_labels), ("val", data.val_labels), ("test", data.test()[1])):
        counts = [len(list((flowers / split / name).iterdir())) for name in data.class_names]
        assert np.bincount(labels).tolist() == counts
