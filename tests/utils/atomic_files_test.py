import errno
import os
import pathlib
import stat
import tempfile
from unittest import mock

import keras
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.utils import atomic_files


class WriteTextTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.path = self.folder / "file.json"

    def test_what_a_link_leads_to(self):
        link = self.folder / "link.json"
        link.symlink_to(self.path)
        atomic_files.write_text(link, "new")
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.path.read_text(), "new")

    def test_a_folder_that_is_not_there(self):
        path = self.folder / "a" / "b" / "file.json"
        atomic_files.write_text(path, "new")
        self.assertEqual(path.read_text(), "new")

    def test_a_device(self):
        atomic_files.write_text(os.devnull, "new")
        self.assertTrue(stat.S_ISCHR(os.stat(os.devnull).st_mode))

    @parameterized.parameters(
        (pathlib.Path, "write_text"), (os, "fsync"), (os, "replace")
    )
    def test_a_full_disk(self, owner, name):
        """The old files stay as they were, and nothing is left behind."""
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8), layers.Dense(2)]
        )
        plan = SparsityPlan.uniform(model, filters=0.5)
        masks = hard_prune(model, plan)
        for thing, kind in ((plan, SparsityPlan), (masks, Masks)):
            thing.save(self.path)
            before = self.path.read_text()
            full = OSError(errno.ENOSPC, "No space left on device")
            with mock.patch.object(owner, name, side_effect=full):
                with self.assertRaisesRegex(OSError, "No space left"):
                    thing.save(self.path)
            self.assertEqual(self.path.read_text(), before)
            kind.load(self.path)
            self.assertLen([*self.folder.iterdir()], 1)


if __name__ == "__main__":
    absltest.main()
