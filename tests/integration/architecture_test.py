"""What is written of the folders is what they are."""

import ast
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = sorted(
    path.parent.name for path in (ROOT / "keras_prm").glob("*/__init__.py")
)


def imported_folders(folder):
    """The other folders of the package that a folder imports at run time."""
    found = set()
    for path in (ROOT / "keras_prm" / folder).glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(
                node.test
            ):
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = node.module.split(".")
                if names[0] == "keras_prm" and names[1:2]:
                    found.add(names[1])
    return found & set(FOLDERS) - {folder}


class ArchitectureTest(parameterized.TestCase):
    def test_the_table_has_all_folders(self):
        rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*)\|$", PAGE, re.M)
        self.assertEqual(sorted(name for name, _ in rows), FOLDERS)
        for number, (name, imports) in enumerate(rows):
            named = set(re.findall(r"`(\w+)`", imports))
            self.assertEqual(named, imported_folders(name), name)
            above = {other for other, _ in rows[:number]}
            self.assertLessEqual(named, above, name)

    @parameterized.parameters(*FOLDERS)
    def test_a_folder_lists_its_files(self, folder):
        files = sorted((ROOT / "keras_prm" / folder).glob("*.py"))
        text = (ROOT / "keras_prm" / folder / "__init__.py").read_text()
        listed = re.findall(r"^    (\w+)  ", text, re.M)
        self.assertCountEqual(
            listed, [p.stem for p in files if p.stem != "__init__"]
        )
        self.assertLessEqual(len(listed), 14)

    def test_paths_of_the_page_exist(self):
        for path in re.findall(r"`([\w/]+/[\w]*\.\w+)`", PAGE):
            places = (ROOT / path, ROOT / "keras_prm" / path)
            self.assertTrue(any(p.exists() for p in places), path)


if __name__ == "__main__":
    absltest.main()
