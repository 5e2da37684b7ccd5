"""python3 -m unittest discover bench/peers: the table of bench/compare, and the timing that the scripts share."""

import importlib.machinery
import importlib.util
import json
import os
import tempfile
import unittest

import figures

PATH = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "compare")
loader = importlib.machinery.SourceFileLoader("compare", PATH)
compare = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
loader.exec_module(compare)


def write(folder, name, program, machine, *rows):
    keys = ("id", "what", "threads", "value", "unit", "seconds", "ceiling")
    root = {"format": "qlora4j-bench-1", "program": program, "machine": machine,
            "figures": [{k: v for k, v in zip(keys, row) if v is not None} for row in rows]}
    with open(os.path.join(folder, name + ".json"), "w") as out:
        json.dump(root, out)


class CompareTest(unittest.TestCase):
    def test_best_rounds_ratios_and_the_compute_type(self):
        with tempfile.TemporaryDirectory() as folder:
            for i, seconds in enumerate((2, 4, 3)):
                write(folder, f"train.{i}", "qlora4j", {"compute dtype": "float32"},
                      ("step", "", 2, 1024 / seconds, "tok/s", seconds, 1024), ("step.memory.system", "", 0, 2, "GB"))
            write(folder, "b.0", "qlora4j", {"compute dtype": "bfloat16"}, ("step", "", 2, 100, "tok/s", 10, 200))
            write(folder, "p.0", "Python stack float32", {}, ("step", "", 2, 170.7, "tok/s", 6),
                  ("step.memory.system", "", 2, 6, "GB"))
            write(folder, "q.0", "Python stack bfloat16", {}, ("step", "", 2, 200, "tok/s", 5))
            text = compare.table(compare.load(folder))
        self.assertIn("| QLoRA step | 512 tok/s | 50 % | Python stack float32 | 171 tok/s | 3.00x |", text)
        self.assertIn("| QLoRA step, bfloat16 | 100 tok/s | 50 % | Python stack bfloat16 | 200 tok/s | 0.50x |", text)
        self.assertIn("| 2.00 GB |  | Python stack float32 | 6.00 GB | 0.33x the bytes |", text)

    def test_a_row_without_a_peer_stays(self):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, "d.0", "qlora4j", {}, ("decode", "", 2, 50, "tok/s", 0.02, 100))
            self.assertIn("| greedy decode | 50.0 tok/s | 50 % |  |  |  |", compare.table(compare.load(folder)))

    def test_every_job_writes_json(self):
        parsed = type("A", (), dict(model="M", venv="V", output="O", threads=2, seconds=1, rounds=1, matrix="8x64", batch=1,
                                    length=8, rank=2, llama_plain=True))
        for name, command in compare.jobs(parsed).items():
            self.assertEqual(command[command.index("--json") + 1], "{}", name)


class FiguresTest(unittest.TestCase):
    def test_measure_takes_three_samples_at_least(self):
        median, best, samples = figures.measure(lambda: sum(range(100)), 1e-6)
        self.assertGreaterEqual(samples, 3)
        self.assertLessEqual(best, median)
        self.assertGreater(best, 0)

    def test_the_file_has_the_format(self):
        report = figures.Report("x", 2)
        report.rate("step", "training step", (0.5, 0.4, 3), 10, "tok/s")
        with tempfile.TemporaryDirectory() as folder:
            report.write(os.path.join(folder, "x.json"))
            with open(os.path.join(folder, "x.json")) as opened:
                root = json.load(opened)
        self.assertEqual(root["format"], "qlora4j-bench-1")
        self.assertEqual(root["figures"][0]["value"], 20)
        self.assertEqual(root["figures"][0]["seconds"], 0.5)


if __name__ == "__main__":
    unittest.main()
