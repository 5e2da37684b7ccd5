"""Dumps what bitsandbytes, PEFT and PyTorch give for the test vectors: dump_bitsandbytes_peft.py VECTORS OUT [cpu|cuda]

Then: ./qlora verify OUT --against VECTORS"""

import json
import sys

import bitsandbytes.functional as bnb
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file

vectors, out = sys.argv[1:3]
device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
given = {k: t.to(device) for k, t in load_file(f"{vectors}/vectors.safetensors").items()}
operations = {o["name"]: o["parameters"] for o in json.load(open(f"{vectors}/vectors.json"))["operations"]}
dump = {"codebook.nf4": bnb.get_4bit_type("nf4", device), "codebook.fp4": bnb.get_4bit_type("fp4", device),
        "codebook.dynamic_signed": bnb.create_dynamic_map(), "codebook.dynamic_unsigned": bnb.create_dynamic_map(False)}

for name in [n for n in operations if n.startswith("quantize.")]:
    x, kind = given[f"{name}.in.x"], operations[name]["quant_type"]
    packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind)
    dump[f"{name}.absmax"], dump[f"{name}.packed"] = state.absmax, packed.flatten()
    dump[f"{name}.dequant"] = bnb.dequantize_4bit(packed, state)
    packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=True)
    dump[f"{name}.offset"], dump[f"{name}.nested.absmax"] = state.offset.view(1), state.absmax
    dump[f"{name}.nested.absmax2"] = state.state2.absmax
    dump[f"{name}.nested.scales"] = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    dump[f"{name}.nested.dequant"] = bnb.dequantize_4bit(packed, state)

lora = {k.removeprefix("lora.in."): t for k, t in given.items() if k.startswith("lora.in.")}
w = bnb.dequantize_4bit(*bnb.quantize_4bit(lora["w"], quant_type="nf4", compress_statistics=True))
layer = torch.nn.ModuleDict({"linear": torch.nn.Linear(64, 64)}).to(device)
layer.linear.weight.data, layer.linear.bias.data = w, lora["bias"]
p = operations["lora"]
inject_adapter_in_model(LoraConfig(r=p["r"], lora_alpha=p["lora_alpha"], target_modules=["linear"]), layer)
a, b = layer.linear.lora_A["default"].weight, layer.linear.lora_B["default"].weight
a.data, b.data, x = lora["lora_A"].clone(), lora["lora_B"].clone(), lora["x"].clone().requires_grad_()
y = layer.linear(x)
y.backward(lora["dy"])
dump |= {"lora.y": y, "lora.dx": x.grad, "lora.dlora_A": a.grad, "lora.dlora_B": b.grad}

logits = given["loss.in.logits"].clone().requires_grad_()
labels = given["loss.in.labels"][:, 1:].flatten().long()
nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, reduction="none")
mean = nll.sum() / (labels != -100).sum()
mean.backward()
dump |= {"loss.mean": mean.view(1), "loss.dlogits": logits.grad}

p, start = operations["adamw.torch"], given["adamw.torch.in.params"]
params = [torch.nn.Parameter(t.clone()) for t in start.split(p["tensors"])]
adam = torch.optim.AdamW(params, lr=p["lr"], betas=p["betas"], eps=p["eps"], weight_decay=p["weight_decay"])
for grads in given["adamw.torch.in.grads"]:
    for q, g in zip(params, grads.split(p["tensors"])):
        q.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(params, p["max_grad_norm"])
    adam.step()
dump |= {f"adamw.torch.{k}": torch.cat([adam.state[q][k] for q in params]) for k in ("exp_avg", "exp_avg_sq")}
dump["adamw.torch.params"] = torch.cat([q.data for q in params])
save_file({k: t.detach().cpu().contiguous() for k, t in dump.items()}, out)
