"""The study in words and one table, both made from the figures."""

from scipy.stats import ttest_rel

from .. import text
from ..demo.report import label
from ..demo.results import Case, Results
from .experiments import LEARNING_RATES, METHODS, experiments
from .jobs import Study, runs

SURE = 0.05  # of the paired test, divided by the number of methods compared (Bonferroni)


def p_value(results: Results, case: Case, method: str, figure: str = "accuracy") -> float | None:
    """Of a paired t-test against plain with the same seeds, two-sided; None with fewer than three or no difference."""
    plain = {run.seed: getattr(run, figure) for run in results.of(case, "plain")}
    pairs = [(getattr(run, figure), plain[run.seed]) for run in results.of(case, method) if run.seed in plain]
    if len(pairs) < 3 or len({a - b for a, b in pairs}) == 1:
        return None
    return float(ttest_rel(*zip(*pairs, strict=True)).pvalue)


def sure(results: Results, case: Case, method: str) -> int:
    """1 or -1 where a method's accuracy is above or below plain's for sure, else 0."""
    others = [m for m in results.methods(case) if m in METHODS and m != "plain"]
    p = p_value(results, case, method)
    if p is None or p > SURE / max(1, len(others)):
        return 0
    return 1 if results.gain(case, method, "accuracy")[0] > 0 else -1


def render(study: Study) -> str:
    """Markdown: the sentence, the table, and how to read it."""
    parts = [sentence(study), table(study), _legend(study), _unfinished(study)]
    if study.results.costs:
        parts += [
            "The mixing step alone over 7x7 locations, forward and backward from feature maps:",
            costs_table(study),
        ]
    return "\n\n".join(part for part in parts if part)


def table(study: Study) -> str:
    """A row for each method: accuracy on every training set, and on the first one what else is measured."""
    results, cases = study.results, study.results.cases()
    first = cases[0]
    header = ["method", *(f"{case[0]}, %" for case in cases), "NLL", "ECE, %", "noise, %", "shift, %", "alignment",
              "uniformity", "step, ms", "mixing"]  # fmt: skip
    body = []
    for method in (m for m in METHODS if m in results.methods(first)):
        extra = [results.mean(first, method, figure) for figure in
                 ("nll", "calibration", "noise_accuracy", "shift_accuracy", "alignment", "uniformity")]  # fmt: skip
        step, mixing = (results.median(first, method, figure) for figure in ("step_ms", "mixing_ms"))
        body.append([
            label(method), *(_accuracy(results, case, method) for case in cases), f"{extra[0]:.3f}",
            *(f"{100 * value:.1f}" for value in extra[1:4]), f"{extra[4]:.2f}", f"{extra[5]:.2f}", f"{step:.0f}",
            f"{100 * mixing / step:.0f} %",
        ])  # fmt: skip
    return text.table(header, body, markdown=True)


def costs_table(study: Study) -> str:
    """A row for each backend, and for the order of the paper, with few and all examples mixed; a column for each n."""
    costs = study.results.costs
    found = {(cost.peer, cost.n): text.duration(cost.seconds) for cost in costs}
    sizes, peers = (list(dict.fromkeys(of)) for of in ((cost.n for cost in costs), (cost.peer for cost in costs)))
    body = [[peer, *(found.get((peer, n), "-") for n in sizes)] for peer in peers]
    return text.table(["", *(f"n = {text.number(n)}" for n in sizes)], body, markdown=True)


def sentence(study: Study) -> str:
    """What the figures say, whichever way they fall."""
    results = study.results
    parts = []
    for case in results.cases():
        methods = [m for m in METHODS if m in results.methods(case)]
        gains = {m: 100 * results.gain(case, m, "accuracy")[0] for m in methods if m != "plain"}
        if not gains or "plain" not in methods:
            continue
        best = max(gains, key=lambda m: gains[m])
        how = {1: "surely above", -1: "surely below", 0: "not surely different from"}[sure(results, case, best)]
        parts.append(
            f"{case[0]}: best is {label(best)}, {gains[best]:+.1f} points and {how} plain training's "
            f"{100 * results.mean(case, 'plain', 'accuracy'):.1f} %"
        )
    reliable = [
        m for m in METHODS if m != "plain" and (at := [c for c in results.cases() if m in results.methods(c)])
        and len(at) > 1 and all(sure(results, case, m) == 1 for case in at)
    ]  # fmt: skip
    end = f"Above plain on every training set: {', '.join(map(label, reliable))}." if reliable else (
        "No method is surely above plain on every training set."
    )  # fmt: skip
    return " ".join(said for said in (f"{'; '.join(parts)}.", end, _above(results), _calibration(results)) if said)


def _above(results: Results) -> str:
    """Methods that gain in the mean on every training set, of several."""
    found = []
    for m in METHODS[1:]:
        gains = [100 * results.gain(case, m, "accuracy")[0] for case in results.cases() if m in results.methods(case)]
        if len(gains) > 1 and min(gains) > 0:
            found.append(f"{label(m)} ({', '.join(f'{gain:+.1f}' for gain in gains)})")
    return f"In the mean above plain on each: {'; '.join(found)}." if found else ""


def _calibration(results: Results) -> str:
    """On the first training set, whose error of calibration is the least, beside plain's."""
    case = results.cases()[0]
    ran = [m for m in METHODS if len(results.of(case, m)) > 1]
    if "plain" not in ran or len(ran) < 2:
        return ""
    errors = {m: 100 * results.mean(case, m, "calibration") for m in ran}
    best = min(errors, key=lambda m: errors[m])
    return (
        f"Best calibrated with {case[0]} is {label(best)}: ECE {errors[best]:.1f} %, plain {errors['plain']:.1f} %; "
        f"NLL {results.mean(case, best, 'nll'):.2f}, plain {results.mean(case, 'plain', 'nll'):.2f}."
    )


def _accuracy(results: Results, case: Case, method: str) -> str:
    if method not in results.methods(case):
        return "-"
    mean, spread = results.mean(case, method, "accuracy"), results.spread(case, method, "accuracy")
    mark = {1: " +", -1: " -", 0: ""}[sure(results, case, method)]
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread == spread else "") + mark


def _legend(study: Study) -> str:
    rates = {m: study.learning_rate(m) for m in study.search}
    chosen = "; ".join(f"{label(m)} {rate:g}" for m, rate in rates.items())
    seeds = {case: len({run.seed for run in study.results.of(case, "plain")}) for case in study.results.cases()}
    steps = {case[0]: study.results.of(case)[0].curve[-1][0] for case in study.results.cases()}
    of = study.provenance
    told = [
        f"Mean ± spread over {', '.join(dict.fromkeys(map(str, seeds.values())))} seeds; seeds draw other training "
        f"examples, too. + or -: above or below plain by a paired t-test at {SURE} divided by the methods compared. "
        f"Steps: {', '.join(f'{title}: {count}' for title, count in steps.items())}. NLL, ECE (expected calibration "
        "error), test images with noise and shifted, alignment and uniformity of embeddings, and times are of the "
        "first training set. mixing: the part of a step that the loss from feature maps takes.",
        f"Each method trains with the learning rate of {', '.join(f'{r:g}' for r in LEARNING_RATES)} that was best on "
        f"a validation split with one seed, others with few examples in a mixture with that of m = 2: {chosen}."
        if chosen else "",
        "X / Y: X on half of the steps, Y on the others.",
        f"{of.get('device_name', 'unknown')}; torch {of.get('torch')}; backend {of.get('backend')!r}; "
        f"{of.get('workers', 1)} at a time; "
        f"{of.get('date', '')[:10]}." if of else "",
    ]  # fmt: skip
    return " ".join(part for part in told if part)


def _unfinished(study: Study) -> str:
    """What of the whole study has not been run, if it was begun."""
    planned = [(e.title, method, seed) for e, method, seed in runs(experiments())]
    missing = set(planned) - {(run.dataset, run.method, run.seed) for run in study.results.runs}
    if not missing or len(missing) == len(planned):
        return ""
    titles = [title for title, method, _ in planned if method in METHODS]
    parts = []
    for title in dict.fromkeys(titles):
        left = sum(t == title and method in METHODS for t, method, _ in missing)
        if left:
            parts.append(f"{left} of {titles.count(title)} with {title}")
    ablations = sum(method not in METHODS for _, method, _ in missing)
    parts += [f"{ablations} of the ablations (n, m, α, attention)"] if ablations else []
    return f"Runs that are still to be made: {'; '.join(parts)}; the same command goes on. No ± means one seed."
