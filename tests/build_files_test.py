"""The BUILD files say what the sources say."""

import ast
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGES = ("keras_prm", "tests", "examples", "benchmarks")
RULES = ("py_binary", "py_library", "py_test")


def read_targets(text):
    """The Python rules of a BUILD file, as dicts with their `rule`.

    Starlark's calls are Python's, so Python's parser reads them. Only lists
    and strings are taken; `data`, which may be a glob, is not looked at.
    """
    compile(text, "BUILD", "exec")  # refuses what is said twice
    statements = ast.parse(text).body
    calls = [s.value for s in statements if isinstance(s, ast.Expr)]
    targets = []
    for call in calls:
        if isinstance(call, ast.Call) and call.func.id in RULES:
            fields = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg in ("name", "srcs", "deps", "visibility")
            }
            empty = {"srcs": [], "deps": [], "visibility": []}
            targets.append(empty | fields | {"rule": call.func.id})
    return targets


def targets_of(package):
    return read_targets((ROOT / package / "BUILD").read_text())


def sources_of(package):
    """The Python files of a package; an `__init__` only if it holds code."""
    return {
        path.name: path
        for path in sorted((ROOT / package).glob("*.py"))
        if path.name != "__init__.py" or path.read_text().strip()
    }


def label(package, module, home):
    """The label of a module's target, as it is written in `home`'s BUILD."""
    name = package if module is None else module
    if package == home:
        return f":{name}"
    return f"//{package}" if name == package else f"//{package}:{name}"


def imported_labels(text, home):
    """The labels of everything from this repository that `text` imports."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    labels = set()
    for name in names:
        package, _, rest = name.partition(".")
        module = rest.split(".")[0]
        if package in PACKAGES:
            is_file = (ROOT / package / f"{module}.py").is_file()
            labels.add(label(package, module if is_file else None, home))
    return labels


def is_visible(target, package):
    return bool(
        {"//visibility:public", f"//{package}:__pkg__"}.intersection(
            target["visibility"]
        )
    )


class BuildFilesTest(parameterized.TestCase):
    def test_reader_reads_starlark(self):
        text = """
load("@rules_python//python:defs.bzl", "py_test")

py_test(name = "a_test", srcs = ["a_test.py"], data = glob(["*.txt"]))
"""
        self.assertEqual(
            read_targets(text),
            [
                {
                    "rule": "py_test",
                    "name": "a_test",
                    "srcs": ["a_test.py"],
                    "deps": [],
                    "visibility": [],
                }
            ],
        )

    def test_labels_of_imports(self):
        text = """
import keras_prm
import numpy
from keras_prm import strip
from keras_prm import version
def late():
    from keras_prm.version import __version__
"""
        self.assertEqual(
            imported_labels(text, "tests"),
            {"//keras_prm", "//keras_prm:version"},
        )
        self.assertEqual(
            imported_labels(text, "keras_prm"), {":keras_prm", ":version"}
        )

    @parameterized.parameters(*PACKAGES)
    def test_every_file_is_the_only_source_of_one_target(self, package):
        self.assertCountEqual(
            [target["srcs"] for target in targets_of(package)],
            [[name] for name in sources_of(package)],
            f"{package}/BUILD (first) needs one target for each file of the "
            "folder (second) and no other.",
        )

    @parameterized.parameters(*PACKAGES)
    def test_targets_are_named_after_their_files(self, package):
        for target in targets_of(package):
            stem = target["srcs"][0].removesuffix(".py")
            name = package if stem == "__init__" else stem
            self.assertEqual(target["name"], name)
            is_test = target["rule"] == "py_test"
            self.assertEqual(
                is_test,
                name.endswith("_test"),
                f"{package}/BUILD: {name} is a {target['rule']}; py_test is "
                "for *_test.py and for nothing else.",
            )

    @parameterized.parameters(*PACKAGES)
    def test_deps_are_the_imports(self, package):
        sources = sources_of(package)
        wrong = {}
        for target in targets_of(package):
            source = sources.get(target["srcs"][0])
            if source is None:
                continue  # Another test reports it.
            expected = sorted(imported_labels(source.read_text(), package))
            if sorted(target["deps"]) != expected:
                wrong[target["name"]] = expected
        self.assertEmpty(
            wrong, f"{package}/BUILD: these targets need these deps instead."
        )

    @parameterized.parameters(*PACKAGES)
    def test_deps_in_other_packages_are_visible(self, package):
        hidden = set()
        for target in targets_of(package):
            for dep in target["deps"]:
                other, _, name = dep.removeprefix("//").partition(":")
                found = {t["name"]: t for t in targets_of(other or package)}
                dependency = found.get(name or other)
                if dependency is None:
                    hidden.add(dep)
                elif other and not is_visible(dependency, package):
                    hidden.add(dep)
        self.assertEmpty(
            hidden,
            f"Define these and make them visible to //{package}:__pkg__.",
        )


if __name__ == "__main__":
    absltest.main()
