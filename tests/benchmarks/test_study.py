"""The study on made-up images, with sizes that take seconds."""

# ruff: noqa: E402  (the imports need the packages that are asked for first)

import gzip
import json
import multiprocessing
import time
from dataclasses import replace

import pytest
import torch

for package in ("matplotlib", "mnist1d", "PIL", "scipy", "sklearn"):
    pytest.importorskip(package)

from benchmarks import readme
from benchmarks.demo import __main__ as command
from benchmarks.demo import data, idx, measures, train
from benchmarks.demo.augment import REACH, augment
from benchmarks.demo.methods import Mixing
from benchmarks.demo.models import build
from benchmarks.demo.results import Cost
from benchmarks.demo.settings import Settings
from benchmarks.demo.variants import find_method
from benchmarks.files import marks
from benchmarks.study import command as study_command
from benchmarks.study import experiments, jobs, report, workers
from benchmarks.study.experiments import ABLATIONS, DENSE_PAIRS, METHODS, PAIRS

SMALL = Settings(steps=4, batch_size=16, n=98, backend="reference", augment=True)


@pytest.fixture
def images() -> data.Dataset:
    """Ten classes of 20x20 images that differ in their mean."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 10
    x = torch.randn(400, 1, 20, 20, generator=generator) + y.reshape(-1, 1, 1, 1)
    return data.make("made-up", 10, x[:300], y[:300], x[300:], y[300:])


@pytest.mark.parametrize("quick", [True, False])
def test_every_planned_method_exists_and_each_run_is_planned_once(quick):
    planned = experiments.experiments(quick)
    runs = jobs.runs(planned)
    assert len({(e.title, m, s) for e, m, s in runs}) == len(runs)
    assert all(find_method(method) for _, method, _ in runs)
    assert {experiments.family(method) for _, method, _ in runs} <= set(METHODS)
    assert all("plain" in e.methods for e in planned[:-1])


def test_ablations_vary_one_option_of_the_comparison():
    lines = [dict(points) for ablation in ABLATIONS for points in ablation.lines.values()]
    assert all({PAIRS, DENSE_PAIRS, "dense:m=128,alpha=1"} & set(line.values()) for line in lines)


def test_variants_do_what_they_say(images):
    model = build(1, (20, 20), 10, seed=0)
    x, y = images.x[:16], images.y[:16]

    def loss(name):
        return find_method(name)(model, x, y, Mixing(3, n=50, backend="reference")).item()

    assert loss("multimix:alpha=0.5-2") == loss("multimix-only")
    assert loss("multimix:m=16,alpha=0.5-2") == pytest.approx(loss("multimix-only"))
    assert loss("multimix:m=2,alpha=1") != loss("multimix:m=3,alpha=1")
    assert loss("multimix:m=99,alpha=1") == loss("multimix:m=16,alpha=1")  # a last mini-batch may be smaller
    assert len({loss(f"dense:m=2,alpha=1,{o}") for o in ("n=25", "n=100", "attention=cam", "activation=softmax")}) == 4
    assert find_method("dense:m=2,alpha=1,with=plain").otherwise is find_method("plain").loss
    assert find_method("dense:m=2,alpha=1,with=plain").label == "Dense MultiMix, m = 2, α = 1 / plain"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cutmix", "there is no 'cutmix'"),
        ("plain:m=2", "there is no 'plain:m=2'"),
        ("multimix:attention=cam", "multimix takes m, n, alpha and with=plain or mixup, got 'attention=cam'"),
        ("dense:m=two", "'m=two' in 'dense:m=two' is not a number"),
        ("dense:with=dense", "got 'with=dense'"),
    ],
)
def test_variants_that_are_none(name, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        find_method(name)


def test_augmentation_flips_and_shifts_whole_images():
    x = torch.arange(12.0).expand(64, 2, 12, 12).contiguous()  # the value is the column
    moved = augment(x, torch.Generator().manual_seed(0))
    offsets, flips = set(), set()
    for image in moved:
        assert (image == image[0, 0]).all()
        row = image[0, 0]
        step = (row[6] - row[5]).item()
        flips.add(step)
        offsets.add((row[5] - (5 if step > 0 else 6)).item() * step)
    assert flips == {1, -1}
    assert offsets == set(range(-REACH, REACH + 1))
    assert torch.equal(moved, augment(x, torch.Generator().manual_seed(0)))


def test_the_residual_network_has_a_feature_map_of_a_quarter():
    model = build(1, (28, 28), 10, seed=0)
    assert model.features(torch.zeros(2, 1, 28, 28)).shape == (2, 48, 7, 7)
    assert build(3, (32, 32), 10, seed=0).features(torch.zeros(2, 3, 32, 32)).shape == (2, 48, 8, 8)


def test_calibration_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 200.0]])
    # Two with confidence 1/2, both wrong; one with confidence 1, right.
    assert measures.calibration_error(logits, torch.tensor([1, 1, 1])) == pytest.approx((2 * 0.5 + 0) / 3)
    nll = measures.negative_log_likelihood(logits, torch.tensor([1, 1, 1]))
    assert nll == pytest.approx(2 * 0.6931471805599453 / 3)


def test_wrong_labels_are_wrong_and_as_many_as_asked(images):
    noisy = images.mislabelled(0.2, seed=1)
    assert (noisy.y != images.y).float().mean().item() == pytest.approx(0.2, abs=0.07)
    assert torch.equal(noisy.y, images.mislabelled(0.2, seed=1).y)
    assert noisy.y.max() < 10
    assert torch.equal(images.mislabelled(0.0, seed=1).y, images.y)


def test_a_validation_split_comes_from_the_training_set(images):
    aside = images.validation(50)
    assert (len(aside.y), len(aside.y_test)) == (250, 50)
    rows = torch.cat([aside.x, aside.x_test]).flatten(1)
    assert torch.equal(rows.sum(1).sort().values, images.x.flatten(1).sum(1).sort().values)


def write_idx(path, array, compressed):
    content = bytes([0, 0, 8, array.dim()]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content += array.numpy().tobytes()
    path.with_name(path.name + ".gz" * compressed).write_bytes(gzip.compress(content) if compressed else content)


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files(tmp_path, compressed):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randint(256, shape, generator=generator).byte() for shape in ((30, 28, 28), (6, 28, 28))]
    labels = [torch.arange(len(array)).remainder(3).byte() for array in arrays]
    for name, array in zip(idx.FILES, (arrays[0], labels[0], arrays[1], labels[1]), strict=True):
        write_idx(raw / name, array, compressed)
    for path in (raw, tmp_path):
        found = command.load_path(path)
        assert (found.classes, tuple(found.x.shape)) == (3, (30, 1, 28, 28))
        assert found.y_test.tolist() == labels[1].tolist()
        assert found.x.std().item() == pytest.approx(1, abs=1e-3)
    broken = raw / (idx.FILES[0] + ".gz" * compressed)
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"data: .*{idx.FILES[0]}"):
        command.load_path(raw)


def test_a_named_data_set_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(idx, "PLACES", ("/nowhere/{name}",))
    with pytest.raises(SystemExit):
        command.main(["--data", "fashion-mnist", "--study"])
    assert "no fashion-mnist in /nowhere/fashion-mnist; Debian has it" in capsys.readouterr().err


def test_a_study_is_cut_short_and_goes_on(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_command, "costs", lambda n, device: [])
    planned, trained = len(jobs.runs(experiments.experiments(quick=True))), []

    def stopped(*arguments):
        if len(trained) == 11:
            raise KeyboardInterrupt
        trained.append(arguments)
        return train.train(*arguments)

    monkeypatch.setattr(jobs, "train", stopped)
    assert study_command.study(images, SMALL, tmp_path, quick=True) == 130
    assert "goes on where this one stopped" in capsys.readouterr().out
    before = json.loads((tmp_path / "study.json").read_text())
    assert (sum(map(len, before["search"].values())), len(before["runs"])) == (9, 2)
    monkeypatch.setattr(jobs, "train", train.train)
    assert study_command.study(images, SMALL, tmp_path, quick=True) == 0
    after = json.loads((tmp_path / "study.json").read_text())
    assert after["runs"][:2] == before["runs"]
    assert len(after["runs"]) == planned
    assert "| Dense MultiMix, m = 2, α = 1" in (tmp_path / "study.md").read_text()
    assert (tmp_path / "study.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="a study with other settings"):
        study_command.study(images, replace(SMALL, n=50), tmp_path, quick=True)


def test_each_location_sees_the_whole_image():
    model = build(1, (28, 28), 10, seed=0).eval()
    x = torch.randn(1, 1, 28, 28, requires_grad=True)
    (seen,) = torch.autograd.grad(model.features(x)[0, :, 3, 3].square().sum(), x)
    assert (seen.abs().amax((0, 1)) > 0).nonzero().amin(0).tolist() == [0, 0]
    assert (seen.abs().amax((0, 1)) > 0).nonzero().amax(0).tolist() == [27, 27]


def test_runs_beside_each_other_are_the_same_runs(images, tmp_path, monkeypatch):
    monkeypatch.setattr(study_command, "costs", lambda n, device: [])
    for count in (1, 2):
        assert study_command.study(images, SMALL, tmp_path / str(count), quick=True, workers=count) == 0
    alone, beside = (json.loads((tmp_path / str(w) / "study.json").read_text()) for w in (1, 2))
    accuracies = [{(r["dataset"], r["method"], r["seed"]): r["accuracy"] for r in s["runs"]} for s in (alone, beside)]
    assert accuracies[0] == accuracies[1]
    assert (alone["search"], beside["provenance"]["workers"]) == (beside["search"], 2)
    assert not multiprocessing.active_children()


def _fail(shared, number):
    if number == 1:
        raise ValueError("of a task")
    time.sleep(3600)


def test_an_error_of_a_run_ends_the_others():
    with pytest.raises(ValueError, match="of a task"):
        list(workers.each(_fail, None, [(0,), (1,), (2,)], 2))
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children()


def test_the_readme_shows_the_newest_study(tmp_path):
    begin, end = marks(readme.STUDY)
    page = tmp_path / "README.md"
    page.write_text(f"{begin}\n{end}\n" + "\n".join(marks(readme.SECTION)))
    arguments = ["--readme", str(page), "--results", str(tmp_path / "results")]
    assert readme.main(arguments) == 0
    assert "Not run yet: `python -m benchmarks.demo --data fashion-mnist --study`" in page.read_text()
    folder = tmp_path / "results" / "box"
    folder.mkdir(parents=True)
    made_study({"plain": [0.8, 0.81], PAIRS: [0.82, 0.83]}).save(folder / "study.json")
    (folder / "study.png").touch()
    assert readme.main(arguments) == 0
    assert "| MultiMix, m = 2, α = 1" in page.read_text()
    assert "](results/box/study.png)" in page.read_text()
    assert readme.main([*arguments, "--check"]) == 0


def made_study(accuracies: dict[str, list[float]]) -> jobs.Study:
    study = jobs.Study(Settings(backend="reference"))
    study.results.runs = [
        train.Run("few", 24, method, seed, value, 0.5, 0.5, 0.3, -1.5, 4.0, 1.0, [(400, value)], 0.5, 0.1)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return study


def test_the_sentence_follows_from_the_figures():
    plain = [0.800, 0.810, 0.790, 0.805, 0.795]
    better = made_study({"plain": plain, DENSE_PAIRS: [a + 0.02 + 0.001 * k for k, a in enumerate(plain)]})
    said = report.sentence(better)
    assert "few: best is Dense MultiMix, m = 2, α = 1, +2.2 points and surely above plain training's 80.0 %" in said
    unsure = made_study({"plain": plain, DENSE_PAIRS: [0.82, 0.80, 0.80, 0.80, 0.80]})
    assert "+0.4 points and not surely different from plain training's" in report.sentence(unsure)
    worse = made_study({"plain": plain, DENSE_PAIRS: [a - 0.02 - 0.001 * k for k, a in enumerate(plain)]})
    assert "-2.2 points and surely below" in report.sentence(worse)
    assert "No method is surely above plain on every training set." in report.sentence(worse)


def test_costs_have_a_column_for_each_n():
    study = made_study({"plain": [0.8]})
    peers = ("paper, m = 2", "cpu, m = 2")
    study.results.costs = [Cost(peer, n, n * 1.5e-6, 0) for n in (1000, 100_000) for peer in peers[: 1 + (n == 1000)]]
    lines = report.render(study).splitlines()[-4:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "n = 1000", "n = 10⁵"]
    assert cells[2:] == [["paper, m = 2", "1.50 ms", "150 ms"], ["cpu, m = 2", "1.50 ms", "-"]]


def test_a_study_that_is_not_done_says_what_is_missing():
    study = made_study({"plain": [0.8, 0.8], PAIRS: [0.9, 0.9]})
    assert "still to be made" not in report.render(study)  # it is another one
    planned = jobs.runs(experiments.experiments())
    run = study.results.runs[0]
    study.results.runs = [replace(run, dataset=e.title, method=m, seed=s) for e, m, s in planned[3:]]
    assert "Runs that are still to be made: 3 of 80 with 1,000 training examples; the same" in report.render(study)
    study.results.runs += [replace(run, dataset=e.title, method=m, seed=s) for e, m, s in planned[:3]]
    assert "still to be made" not in report.render(study)


def test_the_sentence_names_the_best_calibrated():
    study = made_study({"plain": [0.8, 0.8], PAIRS: [0.9, 0.9], DENSE_PAIRS: [0.9, 0.9]})
    study.results.runs = [replace(r, calibration=0.02) if r.method == PAIRS else r for r in study.results.runs]
    said = report.sentence(study)
    assert "Best calibrated with few is MultiMix, m = 2, α = 1: ECE 2.0 %, plain 10.0 %; NLL 0.50, plain 0.50." in said
