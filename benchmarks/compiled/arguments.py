"""The types of the arguments that the launchers pass, kernel by kernel, for compilation without a GPU.

A string is a type; anything else a constant, None among them. Records are those that the kernels take. Strides in them
are multiples of 16, as those of padded operands are.
"""

from multimix_kernels.backends.triton import mix, soft, sums
from multimix_kernels.backends.triton.host.blocks import Drawn
from multimix_kernels.backends.triton.mixed import large, small
from multimix_kernels.backends.triton.products import operands
from multimix_kernels.backends.triton.products.columns import Columns
from multimix_kernels.backends.triton.products.targets import Upstream
from multimix_kernels.backends.triton.weights.tile import DrawNames

F32, LABELS, BYTES = "*fp32", "*i64", "*i8"
FLOATS = {"keep", "uniform_part", "smoothing", "scale"}
FLAGS = dict(
    PER_EXAMPLE=False, ATTENTION=False, IGNORED=True, PACKED=True, LABELS=True, ROWS=False, GRADIENT=True,
    WEIGHTS=False, WEIGHTED=False, SCALED=False, SCRATCH=True, PLAIN=False, WIDE=False, PREPARING=False,
)  # fmt: skip


def arguments_of(kernel, operand: str, flags: dict) -> dict:
    """By name, those that are no constants of the case; flags are such constants, and FLAGS where they are not."""
    on = FLAGS | flags
    low = {"bf16": "*bf16", "fp16": "*fp16"}.get(operand, F32)
    value = F32 if on["WIDE"] else low  # logits and mixed values of many examples are in float32

    def if_(flag, kind):
        return kind if on[flag] else None

    def columns(kind, shifted):
        place = (BYTES, F32 if shifted else None)
        return Columns(kind, "i32", "i32", 1, *((None, None) if on["PACKED"] else place))

    rows = large.Rows(*[F32] * 6)
    padded = operands.Scores(low, None, "i32", 1, F32, low, Columns(low, "i32", "i32", 1))
    given = operands.Given(
        padded, operands.Targets(LABELS, 1, 0, None), operands.Examples(F32, F32, F32), BYTES, BYTES, "fp32", "fp32"
    )
    targets = Columns(low, "i32", "i32", 1, None if on["PACKED"] else BYTES)
    named = dict(
        gram=sums.Gram(F32, "i32", "i32", "i32", LABELS, 1, 0, F32, F32),
        draw=DrawNames(
            LABELS, if_("PER_EXAMPLE", "*fp64"), if_("ATTENTION", F32), if_("IGNORED", "*i16"),
            "*i32" if on.get("SUBSET") and on["IGNORED"] else None, *["fp32"] * 4,
        ),
        scores=columns(low, True), on_target=Columns(low, "i32", "i32", 1), both_ways=Columns(low, "i32", "i32", 1),
        values=columns(low, False), examples=operands.Examples(F32, F32, F32), drawn=Drawn(low, F32), known=rows,
        upstream=if_("WEIGHTED", Upstream(F32, "i32", "i32", F32)), grad=mix.Rows(value, "i32", "i32", 1),
        out=rows, rows_ptr=if_("ROWS", F32), sums_ptr="*fp64", seed_ptr=LABELS, scores_ptr=low, targets_ptr=low,
        logits_ptr=value, target_ptr=LABELS, partial_ptr=if_("GRADIENT", F32), kept_ptr=BYTES, ignored_ptr=BYTES,
        inverse_ptr=if_("SCRATCH", F32), plain_ptr=if_("PLAIN", F32), l_column=1,
        apart_ptr=if_("LABELS", F32), label_ptr=if_("LABELS", LABELS), scale_ptr=if_("SCALED", F32),
        total=sums.Total("*fp64", F32, F32), total_loss=sums.Total("*fp64", F32, F32), row_offset="i64",
    )  # fmt: skip
    if kernel is soft.soft_kernel:
        of_label = soft.Targets(LABELS, None, F32)
        named["target"] = of_label if on["LABELS"] else soft.Targets(None, targets, F32)
        results = if_("GRADIENT", value), if_("WEIGHTS", F32), if_("SCALED", F32)
        named["out"] = soft.Outputs(if_("ROWS", F32), "*fp64", *results)
    elif kernel is sums.add_up_kernel:
        named["partial"] = sums.Grid(F32, "i32", "i32", 1, "i32")
        named["scores"] = sums.Grid(low, None, 0, "i32", 1)
    elif kernel is operands.prepare_kernel:
        named["scores"], named["target"] = given.scores, given.target
    elif kernel is small.mixed_small_kernel:
        own = Columns(low, "i32", 1, "i32")
        named["scores"] = operands.Scores(low, None, "i32", 1, None, None, own)
        target = (LABELS, 1, 0) if on["LABELS"] else (low, "i32", 1)
        named |= dict(target=operands.Targets(*target, own), examples=operands.Examples(F32, None, F32))
    elif kernel is mix.mix_kernel:
        named["out_ptr"] = value
    elif kernel is sums.centre_kernel:
        named["plain_ptr"] = F32
    elif kernel.__name__ == "sample_kernel":
        named["out_ptr"] = low
        named["given"] = if_("PREPARING", given)
    found = {}
    for name in kernel.arg_names:
        default = "fp32" if name in FLOATS else F32 if name.endswith("_ptr") else "i32"
        found[name] = named.get(name, default)
    return found
