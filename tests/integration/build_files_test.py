"""The BUILD files say what the sources import."""

import ast
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
TOP = ("keras_prm", "tests", "examples", "benchmarks")
FOLDERS = sorted(
    {
        str(p.parent.relative_to(ROOT))
        for top in TOP
        for p in ROOT.glob(f"{top}/**/*.py")
    }
)
RULES = ("py_library", "py_test")


def read_targets(text):
    """The libraries and tests of a BUILD file: dict from rule to its `deps`.

    Starlark's expressions are Python's, so Python's parser reads them. Tests
    stand in a list comprehension over the files of the folder.
    """
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RULES:
            assert node.func.id not in found, f"two of {node.func.id}"
            fields = {k.arg: k.value for k in node.keywords}
            deps = fields.get("deps", ast.List([]))
            found[node.func.id] = ast.literal_eval(deps)
    return found


def label(name):
    """The label of the folder that a dotted name is in; None elsewhere."""
    top, *rest = name.split(".")
    if top not in TOP:
        return None
    folder = pathlib.Path(top)
    for part in rest:
        if not (ROOT / folder / part).is_dir():
            break
        folder /= part
    return f"//{folder}"


def at_run_time(tree):
    """The nodes of a source, less those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        test = getattr(node, "test", None)
        if isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from at_run_time(node)


def imported_labels(text):
    """The labels of all of this repository that a source imports.

    What only type checkers import is not there when the program runs.
    """
    names = []
    for node in at_run_time(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {label(name) for name in names} - {None}


def expected_deps(folder):
    """What each rule of a folder's BUILD file needs of other folders."""
    found = {}
    for path in (ROOT / folder).glob("*.py"):
        rule = "py_test" if path.name.endswith("_test.py") else "py_library"
        labels = imported_labels(path.read_text()) - {f"//{folder}"}
        found.setdefault(rule, set()).update(labels)
    return {rule: sorted(labels) for rule, labels in found.items()}


class BuildFilesTest(parameterized.TestCase):
    def test_labels_of_imports(self):
        text = """
import keras_prm
import numpy
from keras_prm import strip
from keras_prm.utils import backend
if TYPE_CHECKING:
    from keras_prm.rules.base import Rule
def late():
    from keras_prm.plans.plan import SparsityPlan
"""
        self.assertEqual(
            imported_labels(text),
            {"//keras_prm", "//keras_prm/utils", "//keras_prm/plans"},
        )

    @parameterized.parameters(*FOLDERS)
    def test_deps_are_the_imports(self, folder):
        found = read_targets((ROOT / folder / "BUILD").read_text())
        expected = expected_deps(folder)
        if expected.get("py_library") == [] and "py_library" not in found:
            del expected["py_library"]  # an `__init__` alone, without imports
        self.assertEqual(
            {
                rule: sorted(dep for dep in deps if not dep.startswith(":"))
                for rule, deps in found.items()
            },
            expected,
            f"{folder}/BUILD (first) has to depend on what the files of the "
            "folder import (second).",
        )


if __name__ == "__main__":
    absltest.main()
