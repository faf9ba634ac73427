"""Classes, and what modules have, are there where docstrings name them."""

import ast
import builtins
import collections
import inspect
import io
import pathlib
import re
import tokenize

import keras
from absl.testing import absltest

import keras_prm

PACKAGE = pathlib.Path(keras_prm.__file__).parent
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*?\))?`")
OTHERS = {"DataLoader", "MyModel"}  # PyTorch's, and an example's


def names(path):
    """All that a module defines, uses and takes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("name", "id", "attr", "arg", "asname"):
            value = getattr(node, field, None)
            found |= {value} if isinstance(value, str) else set()
    return found


def quoted(path):
    """Yields `(line, name)` of each name in backticks."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    for token in tokens:
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for match in NAME.finditer(token.string):
                before = token.string[: match.start()]
                yield token.start[0] + before.count("\n"), match[1]


def of_keras():
    """Names of Keras' public classes and functions."""
    modules = [keras, *(x for _, x in inspect.getmembers(keras))]
    schedules = keras.optimizers.schedules
    return {name for x in (*modules, schedules) for name in dir(x)}


class NamesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.paths = sorted(PACKAGE.rglob("*.py"))
        self.modules = collections.defaultdict(set)
        for path in self.paths:
            self.modules[path.stem] |= names(path)
        # Said of anybody's model or optimizer, not of a module here.
        del self.modules["model"], self.modules["optimizer"]

    def test_classes(self):
        ours = set().union(*self.modules.values())
        known = ours | OTHERS | of_keras() | {*dir(builtins)}
        wrong = [
            f"{path.relative_to(PACKAGE)}:{line}: {name}"
            for path in self.paths
            for line, name in quoted(path)
            if re.fullmatch(r"[A-Z]+[a-z]\w*", name) and name not in known
        ]
        self.assertEqual(wrong, [])

    def test_what_modules_have(self):
        wrong = []
        for path in self.paths:
            for line, name in quoted(path):
                module, _, rest = name.partition(".")
                there = self.modules.get(module)
                if rest and there and rest.split(".")[0] not in there:
                    wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {name}")
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    absltest.main()
