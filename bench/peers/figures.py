"""Timing and JSON as `qlora bench` has them: see README.md beside this file for the format."""

import argparse
import datetime
import json
import platform
import resource
import statistics
import time

SAMPLE_SECONDS = 0.004
LEAST_SAMPLES = 3
WARM = 0.4


def measure(work, seconds):
    """Median and best seconds of a call of work() and the number of samples, in about the time given."""

    def sample(calls):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls

    begin = time.perf_counter()
    one = sample(1)
    while time.perf_counter() - begin < WARM * seconds:
        one = min(one, sample(1))
    calls = max(1, min(10_000, -int(-SAMPLE_SECONDS // one)))
    seen = []
    while len(seen) < LEAST_SAMPLES or (time.perf_counter() - begin < seconds and len(seen) < 1000):
        seen.append(sample(calls))
    return statistics.median(seen), min(seen), len(seen)


class Report:
    """Collects figures of one program and writes them."""

    def __init__(self, program, threads, machine=None):
        self.program = program
        self.threads = threads
        self.machine = machine or {}
        self.figures = []

    def rate(self, id, what, timing, amount, unit):
        median, best, samples = timing
        self.add(id, what, amount / median, unit, seconds=median, best_seconds=best, samples=samples)

    def add(self, id, what, value, unit, **more):
        figure = {"id": id, "what": what, "threads": self.threads, "value": value, "unit": unit, **more}
        self.figures.append(figure)
        print(f"{self.program:24} {what:52} {value:12.3f} {unit}", flush=True)

    def peak_memory(self, id="step.memory.system"):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
        self.add(id, "peak resident memory of the process", peak / 1e9, "GB")

    def write(self, file):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        root = {"format": "qlora4j-bench-1", "program": self.program, "date": now, "machine": self.machine,
                "figures": self.figures}
        with open(file, "w") as out:
            json.dump(root, out, indent=2)
            out.write("\n")


def arguments(description):
    """The flags that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", required=True, metavar="FILE", help="where the figures are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1, help="about how long a figure may take")
    return parser
