"""bitsandbytes' CPU kernels, and sgemm of OpenBLAS (through numpy) and of PyTorch, on one matrix."""

import copy

import figures

parser = figures.arguments(__doc__)
parser.add_argument("--matrix", default="4096x14336", metavar="OUTxIN")
args = parser.parse_args()
out, inner = (int(n) for n in args.matrix.split("x"))

import bitsandbytes as bnb  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from bitsandbytes import functional  # noqa: E402
from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402

COPIES = 8
ROWS = (64, 256, 1024)
torch.set_num_threads(args.threads)
torch.manual_seed(0)
elements = out * inner
# Codes, 8-bit constants of blocks of 64, float32 constants of blocks of 256 of those, the offset.
bytes4 = elements / 2 + elements / 64 + 4 * elements / 64 / 256 + 4

with torch.no_grad():
    report = figures.Report(f"bitsandbytes {bnb.__version__}", args.threads, {"torch": torch.__version__})
    x = torch.randn(out, inner) * 0.02
    timing = figures.measure(
        lambda: functional.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True), args.seconds)
    report.rate("quantize", "quantize to NF4 and double quant, bytes read", timing, 4 * elements / 1e9, "GB/s")
    timing = figures.measure(lambda: functional.quantize_blockwise(x, blocksize=256), args.seconds)
    report.rate("quantize8", "quantize to 8 bits, bytes read", timing, 4 * elements / 1e9, "GB/s")

    # With plain constants: bitsandbytes' own kernel, without the Python that undoes double quantization first.
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    for dtype, name in ((torch.float32, "dequantize"), (torch.bfloat16, "dequantize.bf16")):
        state.dtype = dtype
        timing = figures.measure(lambda: functional.dequantize_4bit(packed, state), args.seconds)
        report.rate(name, f"dequantize to {dtype}".replace("torch.", ""), timing, elements / 1e9, "Gelem/s")
    del packed

    # The module's own path: in bfloat16 it lays the weights out anew for AVX-512's bf16 dot products, where there are.
    for dtype, name in ((torch.float32, "matvec.f32"), (torch.bfloat16, "matvec")):
        layer = bnb.nn.Linear4bit(inner, out, bias=False, compute_dtype=dtype, quant_type="nf4",
                                  compress_statistics=False)
        layer.weight = bnb.nn.Params4bit(x, requires_grad=False, quant_type="nf4", blocksize=64,
                                         compress_statistics=False)
        layer = layer.to("cpu").eval()
        layers = [layer] + [copy.deepcopy(layer) for _ in range(COPIES - 1)]
        vector = torch.randn(1, inner, dtype=dtype)
        turn = [0]

        def matvec():
            turn[0] += 1
            return layers[turn[0] % COPIES](vector)

        for _ in range(COPIES):  # the first call of a layer lays its weights out anew
            matvec()
        report.rate(name, f"x W', m = 1, {dtype}, weights read".replace("torch.", ""),
                    figures.measure(matvec, args.seconds), bytes4 / 1e9, "GB/s")
        del layers
    first = report

    report = figures.Report(f"PyTorch {torch.__version__}", args.threads)
    for m in ROWS:
        a, dy = torch.randn(m, inner), torch.randn(m, out)
        work = 2 * m * elements / 1e9
        report.rate(f"matmul.m{m}", f"sgemm x W', m = {m}, dense", figures.measure(lambda: a @ x.t(), args.seconds),
                    work, "GFLOP/s")
        report.rate(f"matmul_backward.m{m}", f"sgemm dy W, m = {m}, dense",
                    figures.measure(lambda: dy @ x, args.seconds), work, "GFLOP/s")
    second = report

with threadpool_limits(args.threads):
    blas = [p for p in threadpool_info() if "openblas" in p["filepath"].lower()]
    version = blas[0]["version"] if blas else "?"
    report = figures.Report(f"OpenBLAS {version}", args.threads,
                            {"numpy": np.__version__, "kernel": blas[0].get("architecture", "?") if blas else "?"})
    w = x.numpy()
    for m in ROWS:
        a = np.random.default_rng(m).standard_normal((m, inner), dtype=np.float32)
        dy = np.random.default_rng(m).standard_normal((m, out), dtype=np.float32)
        work = 2 * m * elements / 1e9
        report.rate(f"matmul.m{m}", f"sgemm x W', m = {m}, dense", figures.measure(lambda: a @ w.T, args.seconds),
                    work, "GFLOP/s")
        report.rate(f"matmul_backward.m{m}", f"sgemm dy W, m = {m}, dense",
                    figures.measure(lambda: dy @ w, args.seconds), work, "GFLOP/s")

first.write(args.json)
second.write(args.json.replace(".json", ".torch.json"))
report.write(args.json.replace(".json", ".openblas.json"))
