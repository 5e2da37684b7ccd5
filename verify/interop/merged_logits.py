"""Loads a directory that `qlora merge` wrote with transformers and compares its logits with a dump of ours."""

import argparse

import torch
import transformers
from comparison import compare_logits, finish, read_dump


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MERGED_DIR")
    parser.add_argument("dump", metavar="DUMP.safetensors", help="of `qlora dump-logits --model MERGED_DIR`")
    parser.add_argument("--limit", type=float, default=5e-5, help="largest difference (default: %(default)s)")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")

    ids, ours = read_dump(args.dump, loaded="as_stored")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(args.model, output_loading_info=True,
                                                                    dtype=torch.float32)
    # A weight that is not found is drawn at random with a warning at most: say what did not match.
    wrong = {what: names for what, names in info.items() if names}
    print(f"weights that did not match: {wrong or 'none'}")
    with torch.no_grad():
        theirs = model.eval()(input_ids=ids).logits
    finish(compare_logits(theirs, ours, args.limit) and not wrong)


if __name__ == "__main__":
    main()
