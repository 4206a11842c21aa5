"""The training demonstration, on data and with sizes that take seconds."""

# ruff: noqa: E402  (the imports need the packages that are asked for first)

import json
import math
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

for package in ("matplotlib", "mnist1d", "PIL", "sklearn"):
    pytest.importorskip(package)

from benchmarks.demo import __main__ as command
from benchmarks.demo import compare, costs, data, demonstration, folders, measures, report, train
from benchmarks.demo.methods import METHODS, Mixing
from benchmarks.demo.models import build
from benchmarks.demo.results import Results
from benchmarks.demo.settings import Settings

SMALL = Settings(steps=4, seeds=2, batch_size=16, n=20, evaluations=2, backend="reference")


def made_up(*shape: int, classes: int = 3, examples: int = 48) -> data.Dataset:
    """Classes that differ in their mean."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2 * examples) % classes
    x = torch.randn(2 * examples, *shape, generator=generator) + y.reshape(-1, *[1] * len(shape))
    return data.make("made-up", classes, x[:examples], y[:examples], x[examples:], y[examples:])


@pytest.fixture
def sequences() -> data.Dataset:
    return made_up(1, 16)


@pytest.mark.parametrize("shape", [(1, 16), (3, 8, 8)])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(name, shape):
    made = made_up(*shape)
    model = build(shape[0], shape[1:], made.classes, seed=0)
    for seed in range(3):  # so that both losses of a method that alternates have their turn
        loss = METHODS[name](model, made.x, made.y, Mixing(seed, n=20, backend="reference"))
        loss.backward()
        assert math.isfinite(loss.item())
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("name", ["plain", "manifold", "multimix", "dense-plain"])
def test_a_run_follows_from_its_seed(name, sequences):
    first, again, other = (train.train(sequences, METHODS[name], seed, SMALL) for seed in (1, 1, 2))
    assert first.losses == again.losses
    assert first.curve == again.curve
    assert first.losses != other.losses


def test_a_run_starts_with_the_network_and_the_batch_of_its_seed(sequences):
    trained = train.train(sequences, METHODS["plain"], 0, replace(SMALL, steps=1, evaluations=1))
    batch = torch.randperm(len(sequences.y), generator=torch.Generator().manual_seed(0))[:16]
    model = build(1, (16,), 3, seed=0)
    expected = METHODS["plain"](model, sequences.x[batch], sequences.y[batch], Mixing(0))
    assert trained.losses[0] == pytest.approx(expected.item(), rel=1e-6)


def test_training_learns(sequences):
    trained = train.train(sequences, METHODS["plain"], 0, replace(SMALL, steps=60))
    assert trained.curve[-1][0] == 60
    assert trained.curve[-1][1] > 0.8


def test_alignment_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    # Pairs of one class: (0, 1) at squared distance 2, (2, 3) at 0.
    assert measures.alignment(z, torch.tensor([0, 0, 1, 1])) == pytest.approx(1.0)


def test_uniformity_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # Squared distances 2, 4 and 2.
    assert measures.uniformity(z) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))


def test_accuracy_by_hand():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0]]).expand(len(x), -1)

    assert measures.accuracy(Constant(), torch.zeros(4, 1, 2), torch.tensor([1, 1, 0, 1])) == 0.75


def test_noise_is_the_same_each_time_and_as_strong_as_asked():
    x = torch.zeros(200, 1, 50)
    noisy = measures.with_noise(x, 0.5)
    assert torch.equal(noisy, measures.with_noise(x, 0.5))
    assert noisy.std().item() == pytest.approx(0.5, rel=0.05)


def test_shift_moves_each_example_and_repeats_its_edge():
    x = torch.arange(8.0).expand(50, 1, 8)
    shifted = measures.with_shift(x, 0.25)
    offsets = set()
    for row in shifted[:, 0]:
        offset = int(row[4] - 4)
        offsets.add(offset)
        assert torch.equal(row, (torch.arange(8.0) + offset).clamp(0, 7))
    assert offsets == {-2, -1, 0, 1, 2}
    assert measures.with_shift(torch.randn(3, 2, 8, 8), 0.125).shape == (3, 2, 8, 8)


def test_principal_plane_keeps_a_plane():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    points = draw(30, 2) @ draw(2, 5)
    plane = measures.principal_plane(points)
    assert plane.shape == (30, 2)
    torch.testing.assert_close(torch.cdist(plane, plane), torch.cdist(points, points), atol=1e-6, rtol=1e-6)


def test_subsets_are_balanced_and_follow_from_the_seed():
    whole = made_up(1, 16, classes=3, examples=60)
    part = whole.subset(9, seed=1)
    assert part.y.bincount().tolist() == [3, 3, 3]
    assert torch.equal(part.x, whole.subset(9, seed=1).x)
    assert not torch.equal(part.x, whole.subset(9, seed=2).x)
    with pytest.raises(ValueError, match=r"3 classes and 60 training examples, got 61"):
        whole.subset(61, seed=0)


def test_digits_are_scaled():
    digits = data.load("digits")
    assert digits.x.shape[1:] == (1, 8, 8)
    assert digits.x.mean().item() == pytest.approx(0, abs=1e-3)
    assert digits.x.std().item() == pytest.approx(1, abs=1e-3)
    assert len(digits.y) + len(digits.y_test) == 1797


def write_pickle(path, **content):
    path.write_bytes(pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2))


def test_cifar_10(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    for k in (1, 2):
        write_pickle(tmp_path / f"data_batch_{k}", data=pixels, labels=[*range(6), *range(6)])
    write_pickle(tmp_path / "test_batch", data=pixels[:6], labels=list(range(6)))
    found = folders.load_path(tmp_path)
    assert (found.classes, tuple(found.x.shape), tuple(found.x_test.shape)) == (6, (24, 3, 32, 32), (6, 3, 32, 32))
    raw = torch.from_numpy(pixels).reshape(12, 3, 32, 32).float()
    torch.testing.assert_close(found.x[:12], (raw - raw.mean()) / raw.repeat(2, 1, 1, 1).std())
    assert found.y.tolist() == [*range(6)] * 4


def test_cifar_100_uses_the_fine_labels(tmp_path):
    pixels = np.zeros((4, 3072), dtype=np.uint8)
    for name in ("train", "test"):
        write_pickle(tmp_path / name, data=pixels, fine_labels=[0, 1, 2, 3], coarse_labels=[0, 0, 1, 1])
    assert folders.load_path(tmp_path).y_test.tolist() == [0, 1, 2, 3]


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    write_pickle(tmp_path / "data_batch_1", data=print, labels=[])
    write_pickle(tmp_path / "test_batch", data=print, labels=[])
    with pytest.raises(ValueError, match="holds arrays only"):
        folders.load_path(tmp_path)


def write_images(root, classes, count=2, size=(12, 9)):
    from PIL import Image

    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (100 * k, 50, 0)).save(root / name / f"{i}.png")


def test_image_folders(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"], count=3)
    write_images(tmp_path / "val", ["cat", "dog"], count=1)
    found = folders.load_path(tmp_path, image_size=8)
    assert found.x.shape == (6, 3, 8, 8)
    assert found.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.y_test.tolist() == [0, 1]
    assert torch.equal(found.x_test[1], found.x[3])


def test_image_folders_with_a_class_unknown_in_training(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"])
    write_images(tmp_path / "val", ["cow"])
    with pytest.raises(ValueError, match="classes that train/ has not: cow"):
        folders.load_path(tmp_path)


def test_image_folders_without_images(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images"):
        folders.load_path(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere is not a directory; accepted: a directory with IDX files, one with CIFAR"),
        (["--methods", "cutmix"], "there is no 'cutmix'; there are plain, mixup"),
        (["--datasets", "imagenet"], "invalid choice: 'imagenet'"),
        (["--datasets", "digits", "--train-examples", "5"], "10 classes and 1198 training examples, got 5"),
        (["--datasets", "digits", "--backend", "abacus"], "there is no backend 'abacus'"),
        (["--steps", "0"], "expected at least 1"),
    ],
)
def test_errors_say_what_is_accepted(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_directory_that_is_no_data_set(tmp_path):
    with pytest.raises(ValueError, match="is not a data set; accepted"):
        folders.load_path(tmp_path)


def test_report(sequences, tmp_path, capsys):
    methods = ["plain", "mixup", "multimix"]
    assert demonstration.demonstrate([(sequences, 24)], methods, SMALL, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "MultiMix / mixup" in printed
    assert "too few to judge" in printed
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [(run["method"], run["seed"]) for run in saved["runs"]] == [(m, s) for s in (0, 1) for m in methods]
    assert saved["provenance"]["backend"] == "reference"
    assert saved["settings"]["n"] == 20
    assert {"torch", "date", "commit"} <= set(saved["provenance"])


def test_one_seed_has_no_spread(sequences, tmp_path, capsys):
    settings = replace(SMALL, seeds=1)
    assert demonstration.demonstrate([(sequences, 24)], ["plain", "multimix"], settings, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "±" not in printed
    assert "nan" not in printed
    assert "One seed, 4 steps, n = 20" in printed


def test_costs_are_measured_kept_and_drawn_again(sequences, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(costs, "measure_point", lambda *_: {"status": "ok", "peak_bytes": 2**20, "seconds": 1.0})
    demonstration.demonstrate([(sequences, 24)], ["plain"], SMALL, tmp_path, (20, 40))
    loaded = Results.load(tmp_path / "results.json")
    assert [(c.peer, c.n, c.peak_bytes) for c in loaded.costs] == [
        (peer, n, 2**20) for n in (20, 40) for peer in ("paper", "reference")
    ]
    assert all(0 < c.seconds < 60 for c in loaded.costs)
    assert command.main(["--redraw", str(tmp_path / "results.json"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "demo.png").stat().st_size > 10_000


def test_interruption_keeps_finished_runs(sequences, tmp_path, capsys, monkeypatch):
    def interrupted(data, method, seed, settings, advance):
        if seed == 1:
            raise KeyboardInterrupt
        return train.train(data, method, seed, settings, advance)

    monkeypatch.setattr(demonstration, "train", interrupted)
    status = demonstration.demonstrate([(sequences, 24)], ["plain", "multimix"], SMALL, tmp_path)
    assert status == 130
    printed = capsys.readouterr().out
    assert "Interrupted: 2 of 4 runs had finished." in printed
    assert "sparse" in printed
    assert (tmp_path / "demo.png").is_file()
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 2


def results_of(accuracies: dict[str, list[float]]) -> Results:
    """Runs with the given accuracies, one for each seed."""
    runs = [
        train.Run("made-up", 24, method, seed, value, 0.5, 0.5, 0.3, -1.5, 4.0, 1.0, [(400, value)])
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Results(Settings(backend="reference"), runs)


def test_verdicts_need_every_seed_and_more_than_the_spread():
    results = results_of({
        "plain": [0.80, 0.82, 0.84],
        "multimix": [0.83, 0.86, 0.87],
        "dense": [0.78, 0.81, 0.82],
        "mixup": [0.81, 0.81, 0.85],
        "manifold": [0.801, 0.821, 0.90],
    })  # fmt: skip
    case = ("made-up", 24)
    verdicts = {m: results.verdict(case, m, "accuracy") for m in results.methods(case)}
    assert verdicts == {"plain": 0, "multimix": 1, "dense": -1, "mixup": 0, "manifold": 0}
    mean, spread = results.gain(case, "multimix", "accuracy")
    assert (mean, spread) == pytest.approx((1 / 30, 0.01 / math.sqrt(3)))
    assert results_of({"plain": [0.8], "multimix": [0.9]}).verdict(case, "multimix", "accuracy") == 0


def test_the_summary_says_what_the_numbers_say():
    text = report.summary(
        results_of(
            {"plain": [0.80, 0.82], "mixup": [0.70, 0.71], "multimix": [0.60, 0.62], "dense-sparse": [0.9, 0.91]}
        ),
        classes=3,
    )
    assert "plain 81.0 %, best sparse Dense MultiMix 90.5 %; above plain: sparse Dense MultiMix +9.5" in text
    assert "below plain: MultiMix / mixup -20.0, input mixup -10.5" in text
    assert "Steps to 72.9 % clean (0.9 of plain): 400: plain, sparse Dense MultiMix; not reached: input mixup" in text
    assert "Input mixup by itself falls behind, and with it" in text
    assert "sparse Dense MultiMix  above in 1, below in 0, not clearly different in 2" in text


def test_comparison_of_backends(sequences):
    text = compare.compare(sequences, ["multimix", "dense"], ["reference", "reference"], SMALL)
    assert text.count("ms a step") == 4
    assert text.count("0.0e+00 in the first 10 steps, 0.0e+00 in all") == 2
