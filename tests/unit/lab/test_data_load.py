"""Loading: what the digits are, how sets are standardised and split, and the published sets where they are on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.data import split
from secateur.lab.data._dataset import moments


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def test_digits_have_the_sizes_their_documentation_says(digits: data.Dataset) -> None:
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1298, 144, 355)
    assert digits.shape == (1, 8, 8) and digits.num_classes == 10
    assert digits.train.x.shape == (1298, 1, 8, 8) and digits.train.y.dtype is torch.int64
    assert digits.augment is None and "CC BY 4.0" in digits.note


def test_digits_hold_out_every_fifth_of_each_class(digits: data.Dataset) -> None:
    load_digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the same digits").load_digits
    pixels, labels = load_digits(return_X_y=True)
    seen = dict.fromkeys(range(10), 0)
    test = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if seen[label] % 5 == 0:
            test.append(index)
    raw = data.load("digits", standardise=False)
    assert torch.equal(raw.test.y, torch.tensor(labels[test]))
    assert np.array_equal(raw.test.x.flatten(1).numpy() * 16, pixels[test])


def test_damaged_digits_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lying = Path(data.__file__).parent / "bundled" / "digits.u8.gz"
    assert "CC BY" in data.catalogue()["digits"].note and "Attribution 4.0" in lying.with_name("digits.txt").read_text()
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / lying.name).write_bytes(lying.read_bytes()[:-1] + b"x")
    monkeypatch.setattr("secateur.lab.data._formats.resources.files", lambda package: tmp_path)
    with pytest.raises(data.DataError, match="damaged: install it again"):
        data.load("digits")


def test_training_images_have_mean_zero_and_deviation_one_before_the_split(digits: data.Dataset) -> None:
    both = torch.cat([digits.train.x, digits.validation.x]).double()
    assert abs(both.mean().item()) < 1e-6
    assert abs(both.std(correction=0).item() - 1) < 1e-6


def test_standardising_is_undone_by_the_reported_mean_and_deviation(digits: data.Dataset) -> None:
    raw = data.load("digits", standardise=False)
    assert raw.mean == (0.0,) and raw.std == (1.0,)
    assert raw.test.x.min() == 0 and raw.test.x.max() == 1
    assert torch.allclose(digits.test.x * digits.std[0] + digits.mean[0], raw.test.x, atol=1e-6)


def test_moments_are_those_of_numpy_per_channel() -> None:
    x = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8)
    x[:, 1] //= 3
    mean, std = moments(x, 255)
    reference = x.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(reference.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(reference.std((0, 2, 3)).tolist(), rel=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.999])
def test_a_split_loses_and_shares_nothing(fraction: float) -> None:
    kept, held = split(1001, fraction, seed=2)
    assert len(held) == int(1001 * fraction + 0.5)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(1001))
    assert torch.equal(kept, kept.sort().values) and torch.equal(held, held.sort().values)


def test_the_seed_decides_what_is_held_out_and_nothing_else() -> None:
    first, again, other = (data.load("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.validation.x, again.validation.x)
    assert not torch.equal(first.validation.y, other.validation.y)
    assert torch.equal(first.test.x, other.test.x)
    assert first.digest == other.digest and first.mean == other.mean


def test_nothing_is_held_out_when_asked_so() -> None:
    assert (len((d := data.load("digits", validation=0)).train), len(d.validation)) == (1442, 0)


def test_inputs_come_in_the_type_asked_for() -> None:
    assert data.load("digits", dtype=torch.bfloat16).train.x.dtype is torch.bfloat16


def test_loading_leaves_the_global_random_state_as_found() -> None:
    before = torch.random.get_rng_state()
    data.load("digits", seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(SecateurError) as caught:
        data.load("fashion_mnist")
    assert str(caught.value) == (
        "`name` must be one of digits, mnist, fashion-mnist, cifar-10, cifar-10-jpeg75, got 'fashion_mnist'. "
        "Did you mean 'fashion-mnist'?"
    )


def test_looking_for_a_set_says_what_loading_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data.look_for("digits")
    messages = []
    for attempt in (data.look_for, data.load):
        with pytest.raises(data.DataError, match="MNIST was not found") as caught:
            attempt("mnist", data_dir=tmp_path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    for path in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST" / "raw" / f"{path}-ubyte.gz").touch()
    data.look_for("mnist", data_dir=tmp_path)


def test_a_percentage_for_validation_is_refused_before_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(SecateurError) as caught:
        data.load("mnist", validation=10, data_dir=tmp_path)
    assert str(caught.value) == ("`validation` must be a fraction in [0, 1), got 10. Did you mean validation=0.1?")
    with pytest.raises(SecateurError, match=r"got -0.1.$"):
        data.load("digits", validation=-0.1)


def test_random_labels_keep_images_and_class_frequencies(digits: data.Dataset) -> None:
    shuffled = data.shuffle_labels(digits, seed=4)
    assert shuffled.train.x is digits.train.x
    assert torch.equal(shuffled.train.y.bincount(), digits.train.y.bincount())
    agree = (shuffled.train.y == digits.train.y).float().mean().item()
    assert agree < 0.2  # a tenth by chance
    assert shuffled.test is digits.test and shuffled.validation is digits.validation
    assert shuffled.title == "Digits, random labels" and "seed 4" in shuffled.note
    assert torch.equal(data.shuffle_labels(digits, seed=4).train.y, shuffled.train.y)


def test_the_first_examples_of_each_set(digits: data.Dataset) -> None:
    few = data.first(digits, 150)
    assert (len(few.train), len(few.validation), len(few.test)) == (150, 144, 150)  # at most what there is
    assert torch.equal(few.train.x, digits.train.x[:150]) and torch.equal(few.test.y, digits.test.y[:150])
    assert few.train.x.data_ptr() == digits.train.x.data_ptr()  # no copies
    assert (few.title, few.digest, few.mean) == ("Digits, first 150", digits.digest, digits.mean)
    assert data.first(digits, 1_000_000).title == "Digits, first 1,000,000"
    with pytest.raises(SecateurError, match=r"`count` must be at least 1, got 0\."):
        data.first(digits, 0)


def test_a_data_set_prints_in_a_line(digits: data.Dataset) -> None:
    assert repr(digits.test) == "Examples(355 of shape (1, 8, 8), torch.float32, cpu)"


def test_the_catalogue_says_what_loading_gives(digits: data.Dataset) -> None:
    source = data.catalogue()["digits"]
    assert (source.shape, source.num_classes) == (digits.shape, digits.num_classes)
    assert (source.title, source.note) == (digits.title, digits.note)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mean", "std", "first"),
    [("mnist", 0.1307, 0.3081, [5, 0, 4, 1, 9]), ("fashion-mnist", 0.2860, 0.3530, [9, 0, 0, 3, 0])],
)
def test_published_grey_sets(name: str, mean: float, std: float, first: list[int], data_dir: Path) -> None:
    loaded = data.load(name, data_dir=data_dir)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (54_000, 6_000, 10_000)
    assert loaded.mean[0] == pytest.approx(mean, abs=5e-5) and loaded.std[0] == pytest.approx(std, abs=5e-5)
    whole = data.load(name, data_dir=data_dir, validation=0)
    assert whole.train.y[:5].tolist() == first
    assert data.whereabouts(data_dir)[name] == str(data_dir)
    assert len(loaded.classes) == 10


@pytest.mark.data
def test_the_jpeg_copy_of_cifar(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data_dir / "cifar10_jpeg75.npz"
    if not whole.exists():
        pytest.skip(f"needs cifar10_jpeg75.npz in {data_dir}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with np.load(whole, allow_pickle=False) as file:
        arrays = dict(file)
    assert [len(arrays[f"{part}_labels"]) for part in ("train", "test")] == [50_000, 10_000]
    assert np.array_equal(np.bincount(arrays["train_labels"]), [5_000] * 10)
    for part in ("train", "test"):  # decoding all 60,000 takes seconds, the first 2,000 say as much
        arrays[f"{part}_offsets"] = arrays[f"{part}_offsets"][:2001]
        arrays[f"{part}_labels"] = arrays[f"{part}_labels"][:2000]
    np.savez(tmp_path / whole.name, **arrays)
    loaded = data.load("cifar-10-jpeg75", data_dir=tmp_path)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (1_800, 200, 2_000)
    assert loaded.shape == (3, 32, 32) and loaded.classes[0] == "airplane"
    assert loaded.mean == pytest.approx((0.4913, 0.4821, 0.4465), abs=0.01)
    assert loaded.title == "CIFAR-10, JPEG quality 75" and loaded.note.startswith("Not canonical")
