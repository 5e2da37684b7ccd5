#!/usr/bin/env bash
# Adapters with tokens of their own (trainable_token_indices on a grown vocabulary), both ways: what PEFT writes is run
# here, and what is trained here is run by PEFT. Models with a tied and with a separate head, lists and dictionaries.
# usage: peft_tokens.sh PYTHON WORK_DIR [LIMIT]
set -euo pipefail
python=$1 work=$2 limit=${3:-5e-5}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
qlora=$here/../../qlora
failed=0
mkdir -p "$work"
"$python" "$here/peft_tokens.py" "$work"

compare() {
    local name=$1 model=$2 adapter=$3
    "$qlora" dump-logits --model "$model" --adapter "$adapter" --ids 1,17,300,5,301,299,33 \
        --output "$work/$name.safetensors" >>"$work/log" 2>&1
    echo "== $name"
    "$python" "$here/peft_logits.py" "$model" "$adapter" "$work/$name.safetensors" --limit "$limit" || failed=1
}

for head in tied untied; do
    for form in list dict; do
        compare "peft_${head}_$form" "$work/${head}_base" "$work/${head}_$form"
    done
    "$qlora" finetune --model "$work/${head}_base" --data "$work/data.jsonl" --output "$work/ours_$head" \
        --overwrite-output-dir --max-steps 4 --learning-rate 0.02 --lora-r 4 --lora-alpha 8 --max-seq-length 64 \
        --save-steps 0 --add-special-tokens '<|a|>,<|b|>' --trainable-token-indices 7 >>"$work/log" 2>&1
    compare "ours_$head" "$work/${head}_base" "$work/ours_$head"
done
exit $failed
