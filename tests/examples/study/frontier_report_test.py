"""Tests of the tables and the picture of a frontier."""

import pathlib
import tempfile

from absl.testing import parameterized

from examples.study import frontier_methods
from examples.study import frontier_report
from examples.study import result_files
from tests.helpers import frontiers

METHODS = frontier_methods.METHODS


class ReportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        for seed, accuracy in enumerate((0.95, 0.91, 0.93)):
            self.write("admm", seed, accuracy)
        self.write("one_shot", 0, 0.5)

    def write(self, method, seed, accuracy, **changes):
        stages = [
            {
                "stage": name,
                "conv_weights": conv,
                "weights": weights,
                "stored": stored,
                "valid_accuracy": 0.99,
            }
            for name, conv, weights, stored in (
                ("dense", 1000, 8000, 8000),
                ("retrained", 100, 400, 500),
            )
        ]
        kept = frontiers.recipe().kept("half", METHODS[method].filters_only)
        path = self.folder / method / "half" / f"seed{seed}" / "summary.json"
        path.parent.mkdir(parents=True)
        result_files.write_json(
            path,
            {
                "method": method,
                "point": "half",
                "seed": seed,
                "stages": stages,
                "conv_weights": 50,
                "conv_ratio": 20.0,
                "weights": 100,
                "ratio": 80.0,
                "stored": 500,
                "stored_ratio": 16.0,
                "tflite_bytes": 1234,
                "valid_accuracy": 0.99,
                "test_accuracy": accuracy,
                "settings": frontiers.recipe().settings()
                | {
                    "keep": [kept],
                    "epochs": frontiers.recipe().epochs_to("half"),
                }
                | changes,
            },
        )

    def read(self):
        return frontier_report.read(self.folder, frontiers.recipe())

    def test_tables_give_the_median_and_the_range(self):
        text = frontier_report.frontier(self.read(), frontiers.recipe())
        row = next(line for line in text.splitlines() if "ADMM" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        self.assertEqual(
            cells,
            ["half", "ADMM", "93.00 (91.00–95.00)", "99.00"]
            + ["50", "20.0x", "100", "80.0x", "500", "16.0x"]
            + ["1,234", "1.0x", "3"],
        )
        self.assertIn(" 50.00 |", text)
        text = frontier_report.account(self.read(), frontiers.recipe())
        self.assertIn("retrained", text)

    @parameterized.parameters(
        {"rho": 7.0}, {"keep": [{"conv1": [3, 9]}]}, {"epochs": 9}
    )
    def test_results_of_other_settings_are_left_out(self, **changes):
        self.write("admm", 3, 0.1, **changes)
        self.assertLen(self.read()["admm", "half"], 3)

    def test_write_draws_and_returns_the_table(self):
        text = frontier_report.write(self.folder, frontiers.recipe())
        self.assertIn(text, (self.folder / "frontier.md").read_text())
        self.assertGreater((self.folder / "frontier.png").stat().st_size, 9999)

    def test_results_are_kept_in_one_file_and_added_to_those_of_a_folder(self):
        frontier_report.write(self.folder, frontiers.recipe())
        known = frontier_report.known(self.folder / "results.json")
        self.assertEqual(
            frontier_report.read(self.folder / "no", frontiers.recipe(), known),
            self.read(),
        )
        # What the folder holds is newer than what is known.
        row = known["admm", "half", 0]
        known["admm", "half", 0] = row | {"test_accuracy": 0.1}
        known["admm", "half", 7] = row | {"test_accuracy": 0.2, "seed": 7}
        rows = frontier_report.read(self.folder, frontiers.recipe(), known)
        self.assertEqual(
            [row["test_accuracy"] for row in rows["admm", "half"]],
            [0.95, 0.91, 0.93, 0.2],
        )

    def test_no_file_of_results(self):
        self.assertEqual(frontier_report.known(self.folder / "no.json"), {})

    def test_nothing_there(self):
        text = frontier_report.write(self.folder / "no", frontiers.recipe())
        self.assertEqual(text, "There are no results yet.")
