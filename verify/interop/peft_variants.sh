#!/usr/bin/env bash
# Trains a few steps of each variant of an adapter and compares it with PEFT's own reading (peft_logits.py).
# usage: peft_variants.sh PYTHON MODEL_DIR DATA WORK_DIR [LIMIT]
# MODEL_DIR is a dense model with biases (qwen2) for the bias variants to mean something; DATA holds rows.
set -euo pipefail
python=$1 model=$2 data=$3 work=$4 limit=${5:-5e-5}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
qlora=$here/../../qlora
failed=0

variant() {
    local name=$1 out=$work/$1
    shift
    "$qlora" finetune --model "$model" --data "$data" --output "$out" --overwrite-output-dir --max-steps 4 \
        --learning-rate 0.02 --lora-r 4 --lora-alpha 8 --max-seq-length 64 --save-steps 0 "$@" >"$out.log" 2>&1
    "$qlora" dump-logits --model "$model" --adapter "$out" --ids 1,17,42,5,9,200,33 --output "$out.safetensors" \
        >>"$out.log" 2>&1
    echo "== $name: $*"
    "$python" "$here/peft_logits.py" "$model" "$out" "$out.safetensors" --limit "$limit" || failed=1
}

mkdir -p "$work"
variant dora --use-dora
variant rslora --use-rslora --rank-pattern 'q_proj=6,layers.1..*down_proj=2' --alpha-pattern v_proj=4
variant layers --layers-to-transform 0,2 --exclude-modules o_proj --use-dora --use-rslora
variant bias --bias all --modules-to-save lm_head,norm --target-modules q_proj,down_proj
variant lora_only --bias lora_only --modules-to-save embed_tokens --target-modules '.*\.(q|v)_proj'
exit $failed
