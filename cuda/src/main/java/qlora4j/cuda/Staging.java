package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.lang.foreign.MemorySegment;
import java.util.Locale;
import jcuda.Pointer;
import jcuda.driver.CUevent;
import jcuda.driver.CUevent_flags;
import jcuda.driver.CUresult;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.DeviceMemoryException;

/**
 * Copies between ordinary host memory and a GPU through page-locked buffers. An upload returns as soon as the bytes lie
 * in a buffer: the copy itself is enqueued, in order with everything else in the queue. A download waits.
 */
final class Staging implements AutoCloseable {
    private static final int BUFFER = 4 << 20;
    private static final int BUFFERS = 4;

    private final CUstream queue;
    private final MemorySegment[] buffers = new MemorySegment[BUFFERS];
    private final CUevent[] done = new CUevent[BUFFERS];
    private final boolean[] pending = new boolean[BUFFERS];
    private int current;
    private int used;

    Staging(CUstream queue) {
        this.queue = queue;
        for (int i = 0; i < BUFFERS; i++) {
            buffers[i] = pinned(BUFFER);
            done[i] = new CUevent();
            check(JCudaDriver.cuEventCreate(done[i], CUevent_flags.CU_EVENT_DISABLE_TIMING), "cuEventCreate");
        }
    }

    /**
     * Page-locked host memory; free it with {@link #unpin}.
     *
     * @throws DeviceMemoryException where the host has none left
     */
    static MemorySegment pinned(long bytes) {
        Pointer p = new Pointer();
        int rc = JCudaDriver.cuMemHostAlloc(p, bytes, 0);
        if (rc == CUresult.CUDA_ERROR_OUT_OF_MEMORY) {
            throw new DeviceMemoryException(String.format(Locale.ROOT,
                    "no room for %.3f GB of page-locked host memory, which the system cannot move out of the RAM: optimizer"
                            + " pages (--optim-resident) and offloaded activations lie there. Keep more on the GPU,"
                            + " or free memory of the host",
                    bytes / 1e9));
        }
        check(rc, "cuMemHostAlloc of " + bytes + " bytes");
        return MemorySegment.ofAddress(Address.of(p)).reinterpret(bytes);
    }

    static void unpin(MemorySegment memory) {
        check(JCudaDriver.cuMemFreeHost(Address.host(memory)), "cuMemFreeHost");
    }

    synchronized void upload(MemorySegment host, long device) {
        long n = host.byteSize();
        for (long at = 0; at < n;) {
            if (used == BUFFER) {
                next();
            }
            long piece = Math.min(n - at, BUFFER - used);
            MemorySegment.copy(host, at, buffers[current], used, piece);
            check(JCudaDriver.cuMemcpyHtoDAsync(Address.device(device + at),
                    Address.host(buffers[current].asSlice(used)), piece, queue), "cuMemcpyHtoDAsync");
            at += piece;
            used += (int) Math.min(BUFFER - used, (piece + 63) / 64 * 64);
        }
    }

    /** Gives the current buffer up to the copies from it and takes the next, once what was copied from that is done. */
    private void next() {
        check(JCudaDriver.cuEventRecord(done[current], queue), "cuEventRecord");
        pending[current] = true;
        current = (current + 1) % BUFFERS;
        if (pending[current]) {
            check(JCudaDriver.cuEventSynchronize(done[current]), "cuEventSynchronize");
            pending[current] = false;
        }
        used = 0;
    }

    /** Waits for everything enqueued before, then for the copy. */
    synchronized void download(long device, MemorySegment host) {
        // Two buffers take turns: while one is read here, the other is filled. Uploads begin in a fresh one after that.
        next();
        int a = current;
        next();
        int[] turn = {a, current};
        long n = host.byteSize();
        long asked = 0;
        for (long at = 0, i = 0; at < n; i++) {
            while (asked < n && asked < at + 2L * BUFFER) {
                int b = turn[(int) (asked / BUFFER % 2)];
                check(JCudaDriver.cuMemcpyDtoHAsync(Address.host(buffers[b]), Address.device(device + asked),
                        Math.min(BUFFER, n - asked), queue), "cuMemcpyDtoHAsync");
                check(JCudaDriver.cuEventRecord(done[b], queue), "cuEventRecord");
                asked += Math.min(BUFFER, n - asked);
            }
            int b = turn[(int) (i % 2)];
            check(JCudaDriver.cuEventSynchronize(done[b]), "cuEventSynchronize");
            long piece = Math.min(BUFFER, n - at);
            MemorySegment.copy(buffers[b], 0, host, at, piece);
            at += piece;
        }
    }

    @Override
    public void close() {
        for (int i = 0; i < BUFFERS; i++) {
            check(JCudaDriver.cuEventDestroy(done[i]), "cuEventDestroy");
            unpin(buffers[i]);
        }
    }
}
