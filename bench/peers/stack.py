"""The Python stack (transformers, PEFT, bitsandbytes): a training step, or prefill and decoding, of a model directory."""

import time

import figures

parser = figures.arguments(__doc__)
parser.add_argument("--model", required=True, metavar="MODEL_DIR")
parser.add_argument("--target", choices=("train", "decode"), required=True)
parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--prefill", type=int, default=512)
parser.add_argument("--prompt", type=int, default=64)
parser.add_argument("--new", type=int, default=128)
args = parser.parse_args()

import bitsandbytes as bnb  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
dtype = getattr(torch, args.dtype)
config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                         bnb_4bit_compute_dtype=dtype)
model = transformers.AutoModelForCausalLM.from_pretrained(args.model, quantization_config=config, dtype=dtype,
                                                          device_map={"": "cpu"})
vocab = model.config.vocab_size
short = "f32" if dtype == torch.float32 else "bf16"
report = figures.Report(f"Python stack {args.dtype}", args.threads, {
    "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
    "bitsandbytes": bnb.__version__, "model": args.model})


def tokens(rows, length):
    return torch.randint(0, vocab, (rows, length))


if args.target == "train":
    model = peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=args.rank, lora_dropout=0,
                                                       target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0)
    ids = tokens(args.batch, args.length)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        return loss.item()

    step()
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 3 or time.perf_counter() - begin < 3 * args.seconds:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    report.rate(f"step", f"training step, {args.batch} x {args.length} tokens, r = {args.rank}",
                (seconds[len(seconds) // 2], seconds[0], len(seconds)), args.batch * args.length, "tok/s")
    report.peak_memory()
else:
    model.eval()
    with torch.no_grad():
        # The prompt's last row alone goes through the head, as in generate().
        ids = tokens(1, args.prefill)
        timing = figures.measure(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1),
                                 2 * args.seconds)
        report.rate("prefill", f"prefill of {args.prefill}", timing, args.prefill, "tok/s")
        prompt = tokens(1, args.prompt)
        mask = torch.ones_like(prompt)

        def generate(new):
            start = time.perf_counter()
            model.generate(input_ids=prompt, attention_mask=mask, do_sample=False, min_new_tokens=new,
                           max_new_tokens=new, pad_token_id=0)
            return time.perf_counter() - start

        generate(2)
        first, all_tokens = generate(1), generate(args.new)
        each = (all_tokens - first) / (args.new - 1)
        report.rate("decode", f"greedy decode, prompt {args.prompt}, {args.new} new", (each, each, 1), 1, "tok/s")
report.write(args.json)
