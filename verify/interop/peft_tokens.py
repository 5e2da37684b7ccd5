"""Writes models of 300 tokens and PEFT adapters that add two tokens to them; the adapters' parameters are random."""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

VOCAB = 300
NEW = [VOCAB, VOCAB + 1]


def write_tokenizer(directory):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    vocab |= {f"<unused{i}>": i for i in range(len(alphabet), VOCAB)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<unused256>"}))


def main(work):
    torch.manual_seed(0)
    for tied in (True, False):
        head = "tied" if tied else "untied"
        base = work / f"{head}_base"
        config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
                             initializer_range=0.2, bos_token_id=None, eos_token_id=256,
                             max_position_embeddings=256)
        LlamaForCausalLM(config).save_pretrained(base)
        write_tokenizer(base)
        for form, indices in (("list", NEW), ("dict", {"embed_tokens": NEW, "lm_head": NEW})):
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            model.resize_token_embeddings(VOCAB + len(NEW))
            model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"],
                                                     trainable_token_indices=indices, task_type="CAUSAL_LM"))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(work / f"{head}_{form}")
    rows = [{"prompt": f"<|a|>{i}", "completion": f" {i}<|b|>"} for i in range(8)]
    (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
