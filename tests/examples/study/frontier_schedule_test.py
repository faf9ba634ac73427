"""Tests of which results are made, and in which order."""

from absl.testing import parameterized

from examples.study import frontier_schedule
from tests.helpers import frontiers


class ScheduleTest(parameterized.TestCase):
    def test_points_come_in_the_order_of_their_chain(self):
        jobs = frontier_schedule.wanted(
            frontiers.recipe(), ["admm"], ["quarter", "half"], ["3", "4"]
        )
        expected = [("half", 3), ("quarter", 3), ("half", 4), ("quarter", 4)]
        self.assertEqual(jobs, [("admm", *rest) for rest in expected])

    def test_widths_are_needed_on_the_whole_way(self):
        found = frontiers.recipe(widths={"quarter": {"conv1": 1}})
        methods = ["one_shot", "iterative"]
        jobs = frontier_schedule.wanted(found, methods, [], ["0"])
        self.assertEqual(jobs, [("one_shot", "quarter", 0)])

    @parameterized.parameters(
        (["no"], [], ["0"], "methods among"),
        (["admm"], ["no"], ["0"], "points among"),
        (["admm"], [], ["a", "-1"], "whole numbers.*'a', '-1'"),
    )
    def test_what_is_not_known(self, methods, points, seeds, message):
        with self.assertRaisesRegex(ValueError, message):
            frontier_schedule.wanted(frontiers.recipe(), methods, points, seeds)

    def test_what_is_known_of_the_same_settings_is_not_made_again(self):
        jobs = [("admm", "half", 0), ("admm", "half", 1), ("admm", "half", 2)]
        known = {jobs[0]: {"settings": 7}, jobs[1]: {"settings": 8}}
        settings = dict.fromkeys(jobs, 7)
        self.assertEqual(
            frontier_schedule.unknown(jobs, known, settings), jobs[1:]
        )

    def test_what_is_known_of_other_images_is_left_out(self):
        known = {
            ("admm", "half", seed): {"settings": {"data": data}}
            for seed, data in enumerate("abc")
        }
        found = frontier_schedule.of_data(known, {0: "a", 1: "x", 2: "a"})
        self.assertEqual(list(found), [("admm", "half", 0)])

    def test_what_depends_on_admm_waits_for_it(self):
        jobs = frontier_schedule.wanted(
            frontiers.recipe(), ["untaught", "admm", "one_shot"], [], ["0", "1"]
        )
        first, own, others = frontier_schedule.phases(jobs, frontiers.recipe())
        self.assertLen(first, 2)
        self.assertEqual({job[1] for group in first for job in group}, {None})
        self.assertIn(
            [("admm", "half", 0), ("admm", "quarter", 0)],
            own,
        )
        self.assertNotIn("untaught", {job[0] for g in own for job in g})
        self.assertEqual({job[0] for g in others for job in g}, {"untaught"})
