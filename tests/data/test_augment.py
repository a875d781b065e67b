"""Augmentation: a function of (image, seed, epoch, id), with nothing else read or moved."""

from __future__ import annotations

import pickle
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mmembed.data.augment import Augmentation

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
ALL = Augmentation(crop=(0.5, 1.0), size=48, flip=0.5, colour=0.3, rotation=15, erasing=0.5)


def run(augmentation: Augmentation, id: str = "a", image: Image.Image = IMAGE, seed: int = 0, epoch: int = 0):
    return augmentation(image, seed=seed, epoch=epoch, id=id)


def array_of(id: str) -> np.ndarray:
    return np.asarray(run(ALL, id))


def test_all_off_is_the_identity():
    assert run(Augmentation()) is IMAGE
    assert run(Augmentation(crop=(1.0, 1.0), ratio=(4 / 3, 4 / 3))) == IMAGE  # the whole 80 x 60 image


def test_result_depends_on_seed_epoch_and_id_alone():
    first = {id: array_of(id) for id in "abcdef"}
    for id in reversed("abcdef"):
        assert (array_of(id) == first[id]).all()
    assert len({value.tobytes() for value in first.values()}) == 6
    assert not (np.asarray(run(ALL, epoch=1)) == first["a"]).all()
    assert not (np.asarray(run(ALL, seed=1)) == first["a"]).all()
    assert (np.asarray(IMAGE) == PIXELS).all()  # the input is left as it was


def test_other_processes_give_the_same():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for id, result in zip("abc", pool.map(array_of, "abc")):
            assert (result == array_of(id)).all()


def test_known_draws_stay_as_they_are():
    """A pinned result: a release that draws differently would change a resumed run."""
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("RGB")
    crops = [run(Augmentation(crop=(0.2, 0.4)), id, image) for id in ("sku-1", "sku-2", "ü")]
    assert [(crop.size, crop.getpixel((0, 0))[0]) for crop in crops] == [((5, 4), 24), ((5, 4), 18), ((5, 4), 33)]


def test_global_generators_are_neither_read_nor_moved():
    torch = pytest.importorskip("torch")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = array_of("a")
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    random.random(), np.random.rand(), torch.rand(1)
    assert (array_of("a") == expected).all()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    array_of("b")
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    assert before == after


def test_one_step_does_not_change_the_draws_of_another():
    flip_only = [run(Augmentation(flip=0.5), str(n)) == IMAGE for n in range(50)]
    with_erasing = Augmentation(flip=0.5, erasing=0.3)
    plain = [run(with_erasing, str(n)) for n in range(50)]
    flipped = IMAGE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for kept, image in zip(flip_only, plain):
        reference = np.asarray(IMAGE if kept else flipped)
        changed = (np.asarray(image) != reference).any(-1).mean()
        assert changed <= 0.25  # at most the erased rectangle


def test_flip_has_its_probability():
    mirrored = IMAGE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    count = sum(run(Augmentation(flip=0.3), str(n)) == mirrored for n in range(2000))
    assert abs(count / 2000 - 0.3) < 0.045  # 4 standard deviations
    assert run(Augmentation(flip=1.0)) == mirrored


def test_crop_is_a_part_of_the_image_with_area_and_ratio_in_range():
    coordinates = np.zeros((120, 160, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.arange(160), np.arange(120)[:, None]
    image = Image.fromarray(coordinates)
    areas, lefts = [], []
    for n in range(300):
        crop = np.asarray(run(Augmentation(crop=(0.3, 0.6)), str(n), image))
        height, width = crop.shape[:2]
        left, top = int(crop[0, 0, 0]), int(crop[0, 0, 1])
        assert (crop == coordinates[top : top + height, left : left + width]).all()
        areas.append(height * width / (120 * 160))
        lefts.append(left / max(1, 160 - width))
        assert 0.73 < width / height < 1.37 or height == 120 or width == 160
    assert 0.28 < min(areas) < 0.34 and 0.56 < max(areas) < 0.62
    assert min(lefts) < 0.05 and max(lefts) > 0.95 and 0.4 < np.mean(lefts) < 0.6


def test_crop_of_thin_images_stays_inside():
    for size in ((1, 1), (1, 500), (500, 1), (2, 3)):
        image = Image.new("RGB", size, (9, 9, 9))
        for n in range(20):
            assert run(Augmentation(crop=(0.1, 1.0), size=16, erasing=1.0, rotation=5), str(n), image).size == (16, 16)


def test_resizing_without_a_crop_is_pillows():
    assert run(Augmentation(size=30)) == IMAGE.resize((30, 30), Image.Resampling.BICUBIC, reducing_gap=2.0)


def amounts(**only) -> Augmentation:
    return Augmentation(colour=tuple(only.get(name, 0.0) for name in ("brightness", "contrast", "saturation", "hue")))


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colour_change_is_pillows_by_some_factor_in_range(name, enhancer):
    soft = Image.fromarray((PIXELS // 2 + 60).astype(np.uint8))  # leaves room, so that nothing is clipped
    factors = []
    for n in range(20):
        image = np.asarray(run(amounts(**{name: 0.3}), str(n), soft), float)
        candidates = np.linspace(0.7, 1.3, 121)
        errors = [np.abs(np.asarray(enhancer(soft).enhance(f), float) - image).mean() for f in candidates]
        assert min(errors) < 1.2
        factors.append(candidates[int(np.argmin(errors))])
    assert min(factors) < 0.85 and max(factors) > 1.15


def test_hue_turns_colours_and_keeps_greys_and_luma():
    grey = Image.new("RGB", (2, 2), (120, 120, 120))
    muted = Image.new("RGB", (2, 2), (150, 110, 100))
    changes = []
    for n in range(20):
        assert np.abs(np.asarray(run(amounts(hue=0.5), str(n), grey), int) - 120).max() <= 1
        turned = run(amounts(hue=0.5), str(n), muted)
        assert abs(turned.convert("L").getpixel((0, 0)) - muted.convert("L").getpixel((0, 0))) <= 1
        changes.append(max(abs(a - b) for a, b in zip(turned.getpixel((0, 0)), (150, 110, 100))))
    assert max(changes) > 40


def test_one_number_sets_all_colours_with_a_quarter_of_it_as_hue():
    for n in range(5):
        one, four = Augmentation(colour=0.2), Augmentation(colour=(0.2, 0.2, 0.2, 0.05))
        assert run(one, str(n)) == run(four, str(n))


def test_rotation_fills_corners_with_the_background():
    black = Image.new("RGB", (50, 50))
    angles = []
    for n in range(20):
        image = np.asarray(run(Augmentation(rotation=30, background=(0, 255, 0)), str(n), black))
        assert (image[25, 25] == 0).all() and set(np.unique(image[..., 0])) == {0}
        angles.append((image[..., 1] > 127).mean())
    assert max(angles) > 0.1 and min(angles) < 0.05


def test_erasing_paints_one_grey_rectangle():
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    erased = 0
    for n in range(400):
        grey = (np.asarray(run(Augmentation(erasing=0.4), str(n), white)) == 128).all(-1)
        if grey.any():
            erased += 1
            rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
            assert grey.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert 0.015 < grey.mean() < 0.215
    assert abs(erased / 400 - 0.4) < 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop": (0.0, 1.0)},
        {"crop": (0.9, 0.5)},
        {"crop": (0.5, 1.5)},
        {"crop": 0.5},
        {"crop": (0.1, 0.2, 0.3)},
        {"ratio": (0, 1)},
        {"ratio": (1, float("inf"))},
        {"size": 0},
        {"size": 2.5},
        {"size": True},
        {"flip": -0.1},
        {"flip": 1.1},
        {"flip": "x"},
        {"flip": float("nan")},
        {"colour": 1.5},
        {"colour": (0.1, 0.1)},
        {"colour": (0.1, 0.1, 0.1, 0.7)},
        {"colour": "strong"},
        {"colour": None},
        {"rotation": -1},
        {"rotation": 181},
        {"erasing": 2},
        {"background": (1, 2)},
        {"background": None},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Augmentation(**arguments)


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="mode L.*load_image"):
        run(ALL, image=IMAGE.convert("L"))


def test_pickles_compares_and_reads_lists():
    again = pickle.loads(pickle.dumps(ALL))
    assert again == ALL and hash(again) == hash(ALL) and run(again) == run(ALL)
    assert Augmentation(crop=[0.5, 1.0], colour=[0.1] * 4, background=[0, 0, 0]) == Augmentation(
        crop=(0.5, 1.0), colour=(0.1,) * 4, background=(0, 0, 0)
    )  # as YAML gives them


def test_is_fast():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    augmentation = Augmentation(crop=(0.6, 1.0), size=224, flip=0.5, colour=0.2, erasing=0.25)
    times = []
    for n in range(30):
        start = time.process_time()
        run(augmentation, str(n), image)
        times.append(time.process_time() - start)
    assert np.median(times) < 0.006  # about 2 ms where nothing else runs
