"""`python docs/api.py` writes docs/api.md from the signatures and docstrings of the package.

`--check` writes nothing and fails if the page is not the one that the sources give. The sources are read, not imported,
so that the page does not depend on what is installed.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "multimix_kernels"
PAGE = ROOT / "docs" / "api.md"
# Heading, and the names below it. Names of the package that stand nowhere here come last.
SECTIONS = {
    "Modules": ["MultiMixLoss", "MultiMixHead"],
    "Losses": [
        "multimix_cross_entropy", "dense_multimix_cross_entropy", "mixed_cross_entropy", "multimix_head_cross_entropy",
    ],
    "Mixtures": ["multimix", "Mixture", "sample_dirichlet", "attention_map"],
}  # fmt: skip
INSTANCES = {"MultiMixLoss": "criterion", "MultiMixHead": "head"}
SHARED = {"distributed": "Several processes"}  # public modules: their heading, below which all they define
HEAD = """\
<!-- written by python docs/api.py -->
# Functions and modules

Letters in shapes: b examples in the mini-batch, d embedding dimensions, c classes, n interpolated examples per
location, m examples in each of them. `Alpha` is a float, a pair of floats, or a Tensor;
a float may be a Tensor without dimensions on the CPU."""
Definition = ast.FunctionDef | ast.ClassDef


def definitions(module: str) -> dict[str, Definition]:
    """What a module of the package defines in public, in its order."""
    file = PACKAGE / f"{module}.py"
    tree = ast.parse((file if file.exists() else PACKAGE / module / "__init__.py").read_text())
    found = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return {name: node for name, node in found.items() if not name.startswith("_")}


def public() -> dict[str, Definition]:
    """The names of the package, without its version."""
    tree, found = ast.parse((PACKAGE / "__init__.py").read_text()), {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "version":
            found |= {alias.name: definitions(str(node.module))[alias.name] for alias in node.names}
    return found


def signature(name: str, node: ast.FunctionDef, method: bool) -> str:
    """As in the source; one argument a line where it is long."""
    of, kinds = node.args, []
    plain = [*of.posonlyargs, *of.args]
    defaults = [None] * (len(plain) - len(of.defaults)) + list(of.defaults)
    for argument, default in list(zip(plain, defaults, strict=True))[method:]:
        kinds.append(_argument(argument, default))
    kinds += [f"*{of.vararg.arg}"] if of.vararg else ["*"] if of.kwonlyargs else []
    kinds += [_argument(*pair) for pair in zip(of.kwonlyargs, of.kw_defaults, strict=True)]
    kinds += [f"**{of.kwarg.arg}"] if of.kwarg else []
    result = f" -> {ast.unparse(node.returns).strip(chr(39))}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(kinds)}){result}"
    return line if len(line) <= 100 else "\n    ".join([f"{name}(", *(f"{kind}," for kind in kinds)]) + f"\n){result}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation else "")
    equals = " = " if argument.annotation else "="
    return text if default is None else f"{text}{equals}{ast.unparse(default)}".replace("'", '"')


def prose(docstring: str | None) -> str:
    """A docstring as markdown: its sections of arguments become lists, indented text elsewhere stays code."""
    lines, section = [], ""
    for line in (docstring or "").splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Attributes):", line)
        if heading:
            section = heading[1]
            lines += [f"**{section}**", ""]
        elif section in ("", "Returns"):
            lines.append(line.strip() if section else line)
        elif re.match(r" {4}\S", line):
            names, _, rest = line.strip().partition(": ")
            lines.append(f"- {_code(names)}: {rest}")
        elif line:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append("")
    return "\n".join(lines).strip()


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def entry(name: str, node: Definition, level: str = "###") -> str:
    """Heading, signature and docstring; of a class its public methods too."""
    if isinstance(node, ast.FunctionDef):
        return f"{level} {name}\n\n```\n{signature(name, node, False)}\n```\n\n{prose(ast.get_docstring(node))}"
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    parts = [f"{level} {name}"]
    if "__init__" in methods and name != "Mixture":  # a Mixture is made by multimix
        parts.append(f"```\n{signature(name, methods['__init__'], True)}\n```")
    parts.append(prose(ast.get_docstring(node)))
    for method, item in methods.items():
        if method.startswith("_") or method == "extra_repr":
            continue
        marks = {ast.unparse(mark) for mark in item.decorator_list}
        owner = name if "classmethod" in marks else INSTANCES.get(name, name.lower())
        call = "" if method == "forward" else f".{method}"
        shown = f"{owner}{call}" if "property" in marks else signature(f"{owner}{call}", item, True)
        parts += [f"```\n{shown}\n```", prose(ast.get_docstring(item))]
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    names, parts = public(), [HEAD]
    rest = [name for name in names if not any(name in listed for listed in SECTIONS.values())]
    for heading, listed in (SECTIONS | {"Backends": rest}).items():
        parts += [f"## {heading}", *(entry(name, names[name]) for name in listed)]
    for module, heading in SHARED.items():
        docstring = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text()))
        parts += [f"## {heading}", prose(docstring)]
        parts += [entry(f"{module}.{name}", node) for name, node in definitions(module).items()]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Writes or checks the page, and returns the exit code."""
    parser = argparse.ArgumentParser("python docs/api.py", description="docs/api.md from the docstrings")
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date; write nothing")
    options, text = parser.parse_args(), page()
    if options.check and (not PAGE.exists() or PAGE.read_text() != text):
        print("docs/api.md is out of date: run python docs/api.py", file=sys.stderr)
        return 1
    if not options.check:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
