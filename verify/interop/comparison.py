"""What the scripts of this folder share: reading a dump of `qlora dump-logits`, and the verdict."""

import sys

import torch
from safetensors import safe_open


def read_dump(path, loaded=None):
    """Token ids [1, T] and logits [1, T, vocab] of a dump; `loaded` is how its model must have been held."""
    with safe_open(path, framework="pt") as f:
        how = (f.metadata() or {}).get("loaded")
        if loaded is not None and how != loaded:
            sys.exit(f"{path}: the dump was made with weights {how}, this comparison needs {loaded}")
        return f.get_tensor("input_ids").long(), f.get_tensor("logits")


def compare_logits(theirs, ours, limit):
    """Prints the largest difference; whether it is a number within the limit."""
    if theirs.shape != ours.shape:
        sys.exit(f"logits {list(theirs.shape)} there, {list(ours.shape)} in the dump: not the same model")
    d = (theirs.double() - ours.double()).abs()
    worst, mean = d.max().item(), d.mean().item()
    same = (theirs.argmax(-1) == ours.argmax(-1)).sum().item()
    ok = bool(torch.isfinite(theirs).all() and torch.isfinite(ours).all() and worst <= limit)
    print(f"logits {list(ours.shape)}: max |d| {worst:.3e}, mean |d| {mean:.3e}, limit {limit:.0e},"
          f" largest |logit| {theirs.abs().max().item():.3f}, same best token at {same} of {ours.shape[1]} positions")
    return ok


def finish(ok):
    """The verdict as the last line and as the exit code."""
    print("PASS" if ok else "FAIL")
    sys.exit(0 if ok else 1)
