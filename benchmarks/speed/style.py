"""How pictures look: the colour and the name of each peer, the same in all of them, and sizes to read in a README."""

WIDTH = 8.0  # inches; drawn at 200 dots an inch and shown 800 pixels wide, a point is 1.4 pixels
OURS = "#15803d"
OTHERS = "#a8a29e"
PARAMETERS = {
    "figure.dpi": 100, "savefig.dpi": 200, "savefig.bbox": "tight", "font.size": 10, "axes.titlesize": 10,
    "figure.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
}  # fmt: skip
COLOURS = {
    "paper": "#9a3412", "paper-compiled": "#ea580c", "linear-ce": "#f59e0b",
    "scores": "#1e40af", "scores-compiled": "#3b82f6", "scores-presampled": "#93c5fd",
    "pairs": "#6d28d9", "pairs-compiled": "#a78bfa",
    "reference": "#6b7280", "cpu": OURS, "triton": "#16a34a", "cuda": "#166534",
}  # fmt: skip
_LABELS = {
    "paper": "the paper's order", "paper-compiled": "the paper's order, torch.compile",
    "linear-ce": "the paper's order, linear_cross_entropy", "scores": "mixed scores",
    "scores-compiled": "mixed scores, torch.compile", "scores-presampled": "mixed scores, weights given",
    "pairs": "gathered pairs", "pairs-compiled": "gathered pairs, torch.compile",
}  # fmt: skip
N = "interpolated examples per step"


def label(peer: str) -> str:
    """A peer's name for a reader."""
    return _LABELS.get(peer, f"multimix_kernels ({peer})")
