package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import jcuda.driver.CUevent;
import jcuda.driver.CUevent_flags;
import jcuda.driver.CUstream;
import jcuda.driver.CUstream_flags;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.Tensor;

/** Copies on a driver stream of their own, to and from page-locked memory, while the backend's queue computes. */
final class CudaHostCopies implements HostCopies {
    private final CudaBackend backend;
    private final CUstream copies = new CUstream();
    private final CUevent computed = new CUevent();
    private final CUevent copied = new CUevent();
    private final List<MemorySegment> pinned = new ArrayList<>();
    private boolean closed;

    CudaHostCopies(CudaBackend backend) {
        this.backend = backend;
        backend.context().enter();
        check(JCudaDriver.cuStreamCreate(copies, CUstream_flags.CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        check(JCudaDriver.cuEventCreate(computed, CUevent_flags.CU_EVENT_DISABLE_TIMING), "cuEventCreate");
        check(JCudaDriver.cuEventCreate(copied, CUevent_flags.CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    }

    @Override
    public synchronized MemorySegment hostMemory(long bytes) {
        backend.context().enter();
        MemorySegment memory = Staging.pinned(bytes);
        memory.fill((byte) 0);
        pinned.add(memory);
        return memory;
    }

    @Override
    public synchronized void toHost(Tensor device, MemorySegment host) {
        beginToHost(device, host);
        check(JCudaDriver.cuStreamSynchronize(copies), "cuStreamSynchronize");
    }

    @Override
    public synchronized void toDevice(MemorySegment host, Tensor device) {
        backend.context().enter();
        copyToDevice(host, device);
        check(JCudaDriver.cuStreamSynchronize(copies), "cuStreamSynchronize");
    }

    @Override
    public synchronized void beginToHost(Tensor device, MemorySegment host) {
        waitForQueue();
        check(JCudaDriver.cuMemcpyDtoHAsync(Address.host(host), Address.device(device.data().address()), device.bytes(),
                copies), "cuMemcpyDtoHAsync");
    }

    @Override
    public synchronized void beginToDevice(MemorySegment host, Tensor device) {
        waitForQueue();
        copyToDevice(host, device);
    }

    @Override
    public synchronized void queueWaits() {
        backend.context().enter();
        check(JCudaDriver.cuEventRecord(copied, copies), "cuEventRecord");
        check(JCudaDriver.cuStreamWaitEvent(backend.queue(), copied, 0), "cuStreamWaitEvent");
    }

    @Override
    public synchronized void await() {
        backend.context().enter();
        check(JCudaDriver.cuStreamSynchronize(copies), "cuStreamSynchronize");
        backend.faults().check();
    }

    private void waitForQueue() {
        backend.context().enter();
        check(JCudaDriver.cuEventRecord(computed, backend.queue()), "cuEventRecord");
        check(JCudaDriver.cuStreamWaitEvent(copies, computed, 0), "cuStreamWaitEvent");
    }

    private void copyToDevice(MemorySegment host, Tensor device) {
        check(JCudaDriver.cuMemcpyHtoDAsync(Address.device(device.data().address()), Address.host(host), device.bytes(),
                copies), "cuMemcpyHtoDAsync");
    }

    @Override
    public synchronized void close() {
        if (closed) {
            return;
        }
        closed = true;
        backend.context().enter();
        check(JCudaDriver.cuStreamSynchronize(copies), "cuStreamSynchronize");
        pinned.forEach(Staging::unpin);
        check(JCudaDriver.cuEventDestroy(computed), "cuEventDestroy");
        check(JCudaDriver.cuEventDestroy(copied), "cuEventDestroy");
        check(JCudaDriver.cuStreamDestroy(copies), "cuStreamDestroy");
    }
}
