"""Loads a 4-bit directory with transformers and bitsandbytes (CPU) and compares codes and logits with ours."""

import argparse
import copy
import json
from pathlib import Path

import bitsandbytes
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from comparison import compare_logits, finish, read_dump
from safetensors import safe_open


def stored_tensors(directory):
    """All tensors of a directory by name, from one file or from shards."""
    index = Path(directory, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for name in files:
        with safe_open(Path(directory, name), framework="pt") as f:
            tensors.update({k: f.get_tensor(k) for k in f.keys()})
    return tensors


def state(tensor):
    """What the JSON of a quant_state tensor says."""
    return json.loads(bytes(tensor.tolist()).decode("utf-8"))


def check_codes(model, stored):
    """Whether every 4-bit layer holds the bytes of the file: codes, constants and the state beside them."""
    layers = codes = 0
    wrong = []
    expected = {k.rsplit(".quant_state.", 1)[0] for k in stored if ".quant_state." in k}
    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        layers += 1
        weight = f"{name}.weight"
        if weight not in expected:
            wrong.append(weight)
            continue
        expected.discard(weight)
        held = {weight: module.weight.data}
        held.update({f"{weight}.{k}": v for k, v in module.weight.quant_state.as_dict(packed=True).items()})
        codes += 2 * held[weight].numel()
        for key, tensor in held.items():
            if key not in stored:
                wrong.append(key)
            elif ".quant_state." in key:
                if state(tensor) != state(stored[key]):
                    wrong.append(f"{key}: {state(tensor)} held, {state(stored[key])} stored")
            elif not torch.equal(tensor.cpu().flatten(), stored[key].flatten()):
                wrong.append(key)
        wrong += sorted(k for k in stored if k.startswith(weight) and k not in held)
    wrong += sorted(expected)
    print(f"{layers} layers in 4 bits, {codes} codes; {len(wrong)} tensors not as stored {wrong[:3] or ''}".rstrip())
    return layers > 0 and not wrong


class OneRow(torch.nn.Module):
    """A 4-bit layer whose weight bitsandbytes dequantizes as one row, then a float32 product."""

    def __init__(self, layer):
        super().__init__()
        flat = copy.copy(layer.weight.quant_state)
        shape, flat.shape = flat.shape, torch.Size([flat.shape.numel()])
        self.weight = dequantize_4bit(layer.weight.data, flat).view(shape)
        self.bias = layer.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)


def compute_in_float32(model):
    """The dump's logits are float32, so its peer's are too, whatever compute type the directory asks for."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
            module.compute_type_is_set = True


def avoid_cpu_kernels(model):
    """
    Leaves out two CPU kernels of bitsandbytes that compute something else: the product for AVX512-BF16, which is in
    bfloat16 whatever was asked for, and dequantization where blocks cross rows, which takes other blocks' constants.
    """
    crossing = []
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            if module.in_features % module.weight.quant_state.blocksize != 0:
                crossing.append((name, module))
    for name, module in crossing:
        model.set_submodule(name, OneRow(module))
    print(f"{len(crossing)} layers whose blocks cross rows: dequantized as one row")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL4BIT_DIR", help="a directory that `qlora quantize` wrote")
    parser.add_argument("dump", metavar="DUMP.safetensors", help="of `qlora dump-logits --model MODEL4BIT_DIR`")
    parser.add_argument("--limit", type=float, default=5e-5, help="largest difference (default: %(default)s)")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__},"
          f" bitsandbytes {bitsandbytes.__version__}")

    ids, ours = read_dump(args.dump)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, device_map="cpu").eval()
    ok = check_codes(model, stored_tensors(args.model))
    compute_in_float32(model)
    avoid_cpu_kernels(model)
    with torch.no_grad():
        theirs = model(input_ids=ids).logits
    finish(compare_logits(theirs, ours, args.limit) and ok)


if __name__ == "__main__":
    main()
