"""Loads an adapter with PEFT onto a dense float32 model and compares its logits with a dump of ours."""

import argparse

import peft
import torch
import transformers
from comparison import compare_logits, finish, read_dump


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("adapter", metavar="ADAPTER_DIR")
    parser.add_argument("dump", metavar="DUMP.safetensors",
                        help="of `qlora dump-logits --model MODEL_DIR --adapter ADAPTER_DIR`")
    parser.add_argument("--limit", type=float, default=5e-5, help="largest difference (default: %(default)s)")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")

    ids, ours = read_dump(args.dump, loaded="as_stored")
    base = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    if ours.shape[-1] > base.config.vocab_size:  # the adapter has tokens that the base lacks
        base.resize_token_embeddings(ours.shape[-1], mean_resizing=False)
    with torch.no_grad():
        alone = base(input_ids=ids).logits
        model = peft.PeftModel.from_pretrained(base, args.adapter).eval()
        theirs = model(input_ids=ids).logits
    # An adapter whose keys do not match is loaded with a warning at most, and as its initial values: count what arrived.
    missing = check_weights(model, args.adapter)
    print(f"the adapter moves the base's logits by up to {(theirs - alone).abs().max().item():.3e}")
    finish(compare_logits(theirs, ours, args.limit) and not missing)


def check_weights(model, adapter):
    """Whether a weight of the file is not, bit for bit, in the model, or the other way round."""
    from safetensors.torch import load_file
    stored = load_file(f"{adapter}/adapter_model.safetensors")
    loaded = peft.get_peft_model_state_dict(model)
    # With a grown vocabulary PEFT gives its embedding and head too; the rows of tokens are all that an adapter needs.
    grown = {k for k in loaded if "token_adapter" in k or k.endswith("lm_head.weight")} if any(
        "trainable_tokens_delta" in k for k in stored) else set()
    wrong = sorted((set(stored) ^ set(loaded)) - (grown - set(stored)))
    wrong += [k for k in stored if k in loaded and not torch.equal(stored[k].float(), loaded[k].float())]
    print(f"adapter: {len(stored)} tensors, {len(wrong)} missing, unexpected or changed {wrong[:3] or ''}".rstrip())
    return bool(wrong) or not stored


if __name__ == "__main__":
    main()
