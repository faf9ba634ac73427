"""Tables of text."""

from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.reports import tables

ROWS = (("model", "µs"), ("a", "1,234"), ("dense", ""))


class TablesTest(parameterized.TestCase):
    @parameterized.parameters(
        (None, ""), (0, "0"), (1234567, "1,234,567"), (1234.6, "1,235")
    )
    def test_number(self, value, expected):
        self.assertEqual(tables.number(value), expected)

    def test_an_unknown_number(self):
        self.assertEqual(tables.number(None, "?"), "?")
        self.assertEqual(tables.number(0, "?"), "0")

    def test_padded(self):
        expected = [["model", "   µs"], ["    a", "1,234"], ["dense", " " * 5]]
        self.assertEqual(tables.padded(ROWS), expected)

    def test_markdown(self):
        self.assertEqual(
            tables.markdown(ROWS),
            "| model |    µs |\n"
            "|------:|------:|\n"
            "|     a | 1,234 |\n"
            "| dense |       |",
        )

    def test_bars_in_cells(self):
        self.assertEqual(
            tables.markdown([["a|b"], ["c"]]),
            "| a\\|b |\n|-----:|\n|    c |",
        )

    def test_markdown_as_short_as_possible(self):
        self.assertEqual(
            tables.markdown(ROWS, pad=False),
            "| model | µs |\n|---|---|\n| a | 1,234 |\n| dense |  |",
        )


if __name__ == "__main__":
    absltest.main()
