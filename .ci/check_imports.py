"""Checks that the modules of keras_prm import in one direction only.

Run from the root of the repository. Every module may import those that stand
before it in `ORDER`, wherever in its body the import is. No file imports
`keras.src`. What is not installed with the package is imported inside the
function that needs it, so that `import keras_prm` works without it.
"""

import ast
import pathlib
import re
import sys

ORDER = (
    "version",
    "argument_checks",
    "atomic_files",
    "tables",
    "layouts",
    "structures",
    "thresholds",
    "reports",
    "backends",
    "topology",
    "signatures",
    "mixed_precision",
    "float_inputs",
    "samples",
    "model_state",
    "input_domains",
    "drawing",
    "reshaping",
    "windows",
    "column_runs",
    "column_layers",
    "coincidences",
    "constants",
    "training_argument",
    "sites",
    "kernel_rules",
    "channel_rules",
    "normalization_rules",
    "column_rules",
    "axis_rules",
    "operator_rules",
    "attention_rules",
    "recurrent_rules",
    "layer_rules",
    "steps",
    "products",
    "recording",
    "graph",
    "channel_classes",
    "explanation",
    "window_boxes",
    "column_patterns",
    "projections",
    "plan_projections",
    "plan_checks",
    "plan_builder",
    "plan_forms",
    "plans",
    "admm",
    "penalties",
    "admm_variables",
    "optimizer_checks",
    "wrapping",
    "optimizers",
    "trainers",
    "masks",
    "scores",
    "gradients",
    "scoring",
    "ranking",
    "pruning",
    "enforcing",
    "callbacks",
    "iterative",
    "progress",
    "tensorboard",
    "checkpoint_files",
    "training_state",
    "checkpoints",
    "calibration",
    "liveness",
    "kernel_boxes",
    "narrowing",
    "config_arrays",
    "bindings",
    "attachments",
    "copying",
    "holding",
    "contents",
    "twins",
    "model_classes",
    "building",
    "channel_order",
    "lowerings",
    "lowering_costs",
    "lowering_search",
    "parity",
    "number_checks",
    "probing",
    "index_checks",
    "tflite_schema",
    "tflite_tensors",
    "litert_runtime",
    "litert",
    "file_runs",
    "timing",
    "conversion",
    "conversion_worker",
    "conversion_process",
    "file_scores",
    "export_report",
    "export_checks",
    "export",
    "layer_files",
    "timing_cache",
    "lowering_timing",
    "lowering",
    "strip_report",
    "rebuild",
    "block_runs",
    "block_replay",
    "block_calls",
    "opening",
    "functional_form",
    "recompiling",
    "slots",
    "carrying",
    "costs",
    "round_widths",
    "sweeping",
    "drops",
    "sample_means",
    "held_out",
    "purification_search",
    "purification",
    "peak_memory",
    "benchmark_sources",
    "benchmark_report",
    "litert_benchmark",
    "benchmarking",
    "round_trip_worker",
    "round_trips",
    "verification",
    "report",
    "__init__",
)
FOLDERS = ("keras_prm", "tests", "examples", "benchmarks")
INSTALLED = sys.stdlib_module_names | {"keras_prm", "keras", "numpy", "absl"}


def imports(tree):
    """Yields `(line, dotted name)` of every import in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"


def top_level(tree):
    """The part of a syntax tree that runs when the module is imported."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

    class Cut(ast.NodeTransformer):
        def visit(self, node):
            return (
                ast.Pass()
                if isinstance(node, functions)
                else self.generic_visit(node)
            )

    return Cut().visit(tree)


def direction_error(name, imported):
    """Why module `name` may not import `imported`; None if it may."""
    parts = imported.split(".")
    if parts[0] == "":
        return f"{imported}: write absolute imports"
    if parts[0] != "keras_prm":
        return None
    if parts[1:2] == [] or parts[1] not in ORDER:
        return f"{imported}: import a module that is in ORDER"
    if ORDER.index(parts[1]) >= ORDER.index(name):
        return f"{imported}: keras_prm.{parts[1]} stands after {name} in ORDER"
    return None


def check_module(path):
    """Yields `(line, message)` for each offence of one package module."""
    if path.stem not in ORDER:
        yield 1, "put the module into ORDER of .ci/check_imports.py"
        return
    for line, imported in imports(ast.parse(path.read_text())):
        error = direction_error(path.stem, imported)
        if error:
            yield line, error
    for line, imported in imports(top_level(ast.parse(path.read_text()))):
        if imported.split(".")[0] not in INSTALLED | {""}:
            yield line, f"{imported}: import it inside a function"


def check_private(path):
    """Yields `(line, message)` for each import of Keras' private parts."""
    for line, imported in imports(ast.parse(path.read_text())):
        if (imported + ".").startswith("keras.src."):
            yield line, f"{imported}: keras.src is private"


def check_table():
    """Yields a message unless CONTRIBUTING.md lists the modules in ORDER."""
    text = pathlib.Path("CONTRIBUTING.md").read_text()
    rows = tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    if (*rows, "__init__") != ORDER:
        yield "CONTRIBUTING.md: list the modules as ORDER does"


def main():
    errors = list(check_table())
    for folder in FOLDERS:
        for path in sorted(pathlib.Path(folder).glob("*.py")):
            found = list(check_private(path))
            if folder == "keras_prm":
                found += check_module(path)
            errors += [f"{path}:{line}: {text}" for line, text in found]
    if errors:
        sys.exit("\n".join(errors))
    print("Imports go in one direction.")


if __name__ == "__main__":
    main()
