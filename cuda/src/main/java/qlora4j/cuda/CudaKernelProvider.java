package qlora4j.cuda;

import qlora4j.blockwise.BlockwiseKernels;
import qlora4j.lora.DoraKernels;
import qlora4j.lora.LoraKernels;
import qlora4j.model.DecoderKernels;
import qlora4j.optim.EightBitKernels;
import qlora4j.optim.OptimKernels;
import qlora4j.tensor.Backend;
import qlora4j.tensor.KernelProvider;
import qlora4j.tensor.MatmulKernels;

/** This module's kernels, one class for each kernel interface. */
public final class CudaKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        if (!(backend instanceof CudaBackend cuda)) {
            return;
        }
        Products products = new Products(cuda);
        CudaBlockwise blockwise = new CudaBlockwise(cuda, products);
        registry.add(MatmulKernels.class, new CudaMatmul(cuda, products));
        registry.add(BlockwiseKernels.class, blockwise);
        CudaLora lora = new CudaLora(cuda, blockwise, products);
        registry.add(LoraKernels.class, lora);
        registry.add(DoraKernels.class, new CudaDora(cuda, lora));
        registry.add(DecoderKernels.class, new CudaDecoder(cuda));
        registry.add(OptimKernels.class, new CudaOptim(cuda));
        registry.add(EightBitKernels.class, new CudaEightBit(cuda));
    }
}
