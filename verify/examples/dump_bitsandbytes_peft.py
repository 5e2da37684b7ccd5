"""Dumps what bitsandbytes, PEFT, transformers and PyTorch make of test vectors: this.py VECTORS OUT [cpu|cuda]"""
import json, sys
import bitsandbytes.functional as bnb
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from transformers.models.llama import modeling_llama as llama

vectors, out, device = (*sys.argv[1:], "cpu")[:3]
given = {k: t.to(device) for k, t in load_file(f"{vectors}/vectors.safetensors").items()}
operations = {o["name"]: o["parameters"] for o in json.load(open(f"{vectors}/vectors.json"))["operations"]}
dump = {"codebook.nf4": bnb.get_4bit_type("nf4", device), "codebook.fp4": bnb.get_4bit_type("fp4", device),
        "codebook.dynamic_signed": bnb.create_dynamic_map(), "codebook.dynamic_unsigned": bnb.create_dynamic_map(False)}
for name in [n for n in operations if n.startswith("quantize.")]:
    x, kind = given[f"{name}.in.x"], operations[name]["quant_type"]
    for level, nested in (name, False), (f"{name}.nested", True):
        packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=nested)
        dump |= {f"{level}.absmax": state.absmax, f"{level}.dequant": bnb.dequantize_4bit(packed, state)}
    dump |= {f"{name}.packed": packed, f"{name}.offset": state.offset, f"{name}.nested.absmax2": state.state2.absmax,
             f"{name}.nested.scales": bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset}
def record(name, f, *inputs, y="y"):  # a result, and the gradients of inputs
    leaves = [given[f"{name}.in.{i}"].clone().requires_grad_() for i in inputs]
    result = dump[f"{name}.{y}"] = f(*leaves)
    result.backward(given.get(f"{name}.in.dy"))
    dump.update({f"{name}.d{i}": t.grad for i, t in zip(inputs, leaves)})
lora = {"lora_A": "0.lora_A.default.weight", "lora_B": "0.lora_B.default.weight"}
for name, parts in ("lora", lora), ("dora", lora | {"magnitude": "0.lora_magnitude_vector.default.weight"}):
    w = bnb.quantize_4bit(given[f"{name}.in.w"], quant_type="nf4", compress_statistics=True)
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64)).to(device)
    layer[0].weight.data, layer[0].bias.data = bnb.dequantize_4bit(*w), given[f"{name}.in.bias"]
    inject_adapter_in_model(LoraConfig(target_modules=["0"], use_dora=name == "dora", **operations[name]), layer)
    record(name, lambda x, *t: functional_call(layer, dict(zip(parts.values(), t)), x), "x", *parts)
record("embedding", lambda table: F.embedding(given["embedding.in.tokens"].long(), table), "table")
norm = llama.LlamaRMSNorm(24, operations["rmsnorm"]["eps"])
record("rmsnorm", lambda x, weight: functional_call(norm, {"weight": weight}, x), "x", "weight")
heads, rows = lambda t, d: t.unflatten(1, (-1, d)).transpose(0, 1)[None], lambda t: t[0].transpose(0, 1).flatten(1)
for name in ("rope", "rope.llama3"):
    x, p = heads(given[f"{name}.in.x"], 16), operations[name]
    config = llama.LlamaConfig(head_dim=p.pop("head_dim"), rope_parameters=p)
    table = llama.LlamaRotaryEmbedding(config, device)(x, given[f"{name}.in.positions"][None])
    dump[f"{name}.y"] = rows(llama.apply_rotary_pos_emb(x, x, *table)[0])
for name in ("attention", "attention.window"):
    seen = torch.ones(7, 7, dtype=torch.bool, device=device).tril().triu(1 - (operations[name]["sliding_window"] or 7))
    sdpa = lambda *qkv: rows(F.scaled_dot_product_attention(*(heads(t, 8) for t in qkv), seen, enable_gqa=True))
    record(name, sdpa, "q", "k", "v")
record("swiglu", lambda gate, up: F.silu(gate) * up, "gate", "up")
labels = given["loss.in.labels"][:, 1:].flatten().long()
record("loss", lambda logits: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels), "logits", y="mean")
p, start = operations["adamw.torch"], given["adamw.torch.in.params"]
params = [torch.nn.Parameter(t.clone()) for t in start.split(p["tensors"])]
adam = torch.optim.AdamW(params, **{k: p[k] for k in ("lr", "betas", "eps", "weight_decay")})
for grads in given["adamw.torch.in.grads"]:
    for q, g in zip(params, grads.split(p["tensors"])): q.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(params, p["max_grad_norm"])
    adam.step()
dump |= {f"adamw.torch.{k}": torch.cat([adam.state[q][k] for q in params]) for k in ("exp_avg", "exp_avg_sq")}
dump["adamw.torch.params"] = torch.cat([q.data for q in params])
save_file({k: t.detach().cpu().contiguous() for k, t in dump.items()}, out)
