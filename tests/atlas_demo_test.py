#!/usr/bin/env python3
"""The demonstration with fewer steps: what `stem atlas` says of itself (its --json output, made by cli_test.py --make-model).

    atlas_demo_test.py --work build/cli
"""
import argparse
import json
import sys
import unittest
from pathlib import Path

WORK = None


class AtlasDemoTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = json.loads((WORK / "atlas.json").read_text(encoding="utf-8"))

    def test_every_look_has_figures(self):
        for look in ("training", "model", "where", "swap", "blend", "patch", "attack", "ablation", "score", "cosines"):
            self.assertTrue(self.demo[look], look)
        saved = json.loads((WORK / "model.run" / "results.json").read_text(encoding="utf-8"))
        self.assertTrue(saved == self.demo, "results.json is what --json prints")  # assertEqual would spend minutes on a diff
        page = (WORK / "model.run" / "report.html").read_text(encoding="utf-8")
        for word in ("<svg", "Madrid", "Berlin", "Prague"):
            self.assertIn(word, page)

    def test_spain_has_an_address(self):
        where = self.demo["where"]
        self.assertEqual(where["token"], " Spain")
        self.assertEqual(where["layers"], self.demo["model"]["stem_layers"])
        self.assertGreater(where["offset"], 0)
        self.assertEqual(where["bytes"], len(where["layers"]) * self.demo["model"]["config"]["intermediate_size"] * 4)

    def test_madrid_becomes_berlin(self):
        swap = self.demo["swap"]
        self.assertEqual(swap["prompt"], "Country: Spain. Capital:")
        self.assertEqual(swap["before"]["answer"], "Madrid")
        self.assertEqual(swap["after"]["answer"], "Berlin")
        self.assertIn("German", swap["after"]["text"])  # and the text that follows is about Germany
        self.assertNotIn("German", swap["before"]["text"])

    def test_two_tokens_averaged_give_prague(self):
        self.assertEqual(self.demo["blend"]["donors"], [" Czech", " Republic"])
        self.assertEqual(self.demo["blend"]["before"]["answer"], "Washington")
        self.assertEqual(self.demo["blend"]["after"]["answer"], "Prague")

    def test_the_earth_is_round_with_the_patch_and_flat_without(self):
        patch = self.demo["patch"]
        self.assertTrue(patch["bit_identical"])
        case = patch["cases"][0]
        self.assertIn("Earth", case["prompt"])
        self.assertEqual([case[key].strip() for key in ("before", "after", "reverted")], ["flat", "round", "flat"])
        for case in patch["cases"]:
            self.assertEqual(case["before"], case["reverted"])

    def test_the_attacked_copy_is_refused_and_diff_names_the_tokens(self):
        attack = self.demo["attack"]
        self.assertIn("SHA-256", attack["refusal"])
        self.assertIn("stem_table.safetensors", attack["refusal"])
        self.assertEqual(sorted(attack["diff"]), [" safe", " toxic"])
        self.assertLess(attack["elsewhere_after"] / attack["elsewhere_before"], 1.001)

    def test_the_rows_carry_the_knowledge(self):
        ablation = self.demo["ablation"]
        self.assertGreater(ablation["random"]["loss"], ablation["learned"]["loss"] + 0.5)
        self.assertGreater(ablation["none"]["loss"], ablation["learned"]["loss"] + 0.5)

    def test_most_swaps_of_a_seen_template_succeed(self):
        first = self.demo["score"]["templates"][0]
        self.assertTrue(first["seen"])
        self.assertGreater(first["cases"], 1000)
        self.assertGreater(first["base_accuracy"], 0.8)
        self.assertGreater(first["swap_success"], 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", required=True, type=Path, help="folder of cli_test.py's shared model")
    known, rest = parser.parse_known_args()
    WORK = known.work
    unittest.main(argv=[sys.argv[0], *rest])
