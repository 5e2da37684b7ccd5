/**
 * Every kernel interface on NVIDIA GPUs. Kernels are CUDA C++ ({@code src/main/cuda}, one operation a file), compiled to
 * PTX that the driver loads; nothing but the driver has to be installed. No type of JCuda leaves this package.
 */
package qlora4j.cuda;
