"""Tests of the tables of phases."""

import pathlib
import tempfile

from absl.testing import absltest

from examples.study import over_seeds
from examples.study import phase_report
from examples.study import result_files


def row(stage, conv, accuracy):
    return {
        "stage": stage,
        "conv_weights": conv,
        "weights": 2 * conv,
        "stored": 4 * conv,
        "macs": 100 * conv,
        "valid_log_likelihood": -0.5,
        "valid_accuracy": accuracy,
        "valid_top3": 0.99,
    }


class PhaseReportTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folders = [root / f"seed{seed}" for seed in range(3)]
        for folder, accuracy in zip(self.folders, (0.9, 0.8, 0.86)):
            self.write(folder, "b20x", 50, accuracy - 0.1)
            self.write(folder, "a10x", 100, accuracy)

    def write(self, folder, point, conv, accuracy):
        path = folder / point
        path.mkdir(parents=True)
        files = ("small.keras", "small.tflite", "int8.tflite")
        result_files.write_json(
            path / "summary.json",
            {
                "point": point,
                "seed": int(folder.name[-1]),
                "valid_accuracy": accuracy,
                "top": 3,
                "conv_ratio": result_files.ratio(1000, conv),
                "dense_test_accuracy": 0.95,
                "dense_test_top3": 0.99,
                "test_accuracies": dict.fromkeys(files[:2], accuracy)
                | {files[2]: accuracy - 0.01},
                "test_top3": dict.fromkeys(files, 0.97),
                "tflite_bytes": 1234,
                "stages": [row("dense", 1000, 0.94), row("small", conv, 0.91)],
            },
        )
        result_files.write_json(path / "claims.json", {})

    def lines(self, text):
        return [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines()
        ]

    def test_a_range_below_zero(self):
        rows = [{"lost": x} for x in (0.01, -0.02, 0.0)]
        self.assertEqual(
            over_seeds.spread(rows, "lost"), "0.00 (-2.00 to 1.00)"
        )

    def test_points_are_medians_and_ranges(self):
        found = self.lines(phase_report.text(self.folders))
        self.assertEqual(
            found[0],
            ["point", "seeds", "test", "lost", "int8 test"]
            + ["top3", "lost", "int8 top3"]
            + ["CONV weights", "kernel weights", "stored", "MACs", ".tflite"],
        )
        self.assertEqual(found[2][0], "dense")
        self.assertEqual(found[2][8:12], ["1,000", "2,000", "4,000", "100,000"])
        self.assertEqual(
            found[3],
            ["a10x", "3", "86.00 (80.00–90.00)", "9.00 (5.00–15.00)"]
            + ["85.00 (79.00–89.00)", "97.00 (97.00–97.00)"]
            + ["2.00 (2.00–2.00)", "97.00 (97.00–97.00)", "100 (10.0x)"]
            + ["200 (10.0x)", "400 (10.0x)", "10,000 (10.0x)", "1 kB"],
        )
        self.assertEqual(found[4][0], "b20x")

    def test_one_folder_has_no_ranges(self):
        text = phase_report.text(self.folders[:1])
        self.assertIn("| 90.00 |", text)
        self.assertNotIn("(90.00", text)
        self.assertIn("a10x, stage by stage:", text)

    def test_stages(self):
        text = phase_report.text(self.folders)
        self.assertIn("b20x, stage by stage; the middle seed is 2:", text)
        self.assertIn("valid top3", text)
        self.assertNotIn("likelihood", text)

    def test_top_is_left_out_unless_all_have_it(self):
        path = self.folders[0] / "a10x" / "summary.json"
        summary = result_files.read(path.parent)
        for stage in summary["stages"]:
            del stage["valid_top3"]
        result_files.write_json(path, summary)
        text = phase_report.text(self.folders)
        self.assertIn("int8 top3", text)
        tables = text.partition("a10x, stage by stage")[2]
        tables = tables.partition("b20x, stage by stage")
        self.assertNotIn("top3", tables[0])
        self.assertIn("top3", tables[2])
        del summary["top"], summary["test_top3"]
        result_files.write_json(path, summary)
        text = phase_report.text(self.folders)
        self.assertNotIn("top3", text)
        self.assertEqual(*(len(line) for line in self.lines(text)[2:4]))

    def test_what_has_lost_all_weights(self):
        self.write(self.folders[0], "none", 0, 0.1)
        self.assertIn("0 (infx)", phase_report.text(self.folders))

    def test_seeds_that_went_other_ways(self):
        path = self.folders[0] / "a10x" / "summary.json"
        summary = result_files.read(path.parent)
        result_files.write_json(path, summary | {"stages": [row("a", 1, 1.0)]})
        with self.assertRaises(ValueError):
            phase_report.text(self.folders)

    def test_nothing_is_exported(self):
        with self.assertRaisesRegex(SystemExit, "No point is exported in no"):
            phase_report.text(["no"])


if __name__ == "__main__":
    absltest.main()
