package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Map;
import java.util.TreeMap;
import jcuda.driver.CUgraph;
import jcuda.driver.CUgraphExec;
import jcuda.driver.CUstream;
import jcuda.driver.CUstreamCaptureMode;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A stream on a GPU. All streams of a backend put their work into the backend's one queue, which runs it in order; a
 * stream of its own is the bookkeeping of intermediate tensors. Outside of a plan these come from memory that the stream
 * keeps until it is closed: what was given back can be handed out again at once, since its next user is enqueued behind
 * the last one.
 */
public final class CudaStream extends Stream {
    /** Loose memory comes in multiples of this, so that more of it fits again. */
    private static final long GRANULE = 1 << 16;

    private final CudaBackend cuda;
    private final TreeMap<Long, Deque<Allocation>> idle = new TreeMap<>();

    CudaStream(CudaBackend cuda) {
        super(cuda);
        this.cuda = cuda;
    }

    CudaBackend cuda() {
        return cuda;
    }

    CUstream handle() {
        return cuda.queue();
    }

    @Override
    public void zero(Tensor tensor) {
        cuda.zero(tensor.data().address(), tensor.bytes());
    }

    @Override
    public void synchronize() {
        cuda.synchronize();
    }

    @Override
    protected Allocation borrow(long bytes) {
        long rounded = Math.ceilDiv(bytes, GRANULE) * GRANULE;
        Map.Entry<Long, Deque<Allocation>> fit = idle.ceilingEntry(rounded);
        if (fit != null && fit.getKey() <= 2 * rounded) {
            Allocation memory = fit.getValue().pop();
            if (fit.getValue().isEmpty()) {
                idle.remove(fit.getKey());
            }
            return memory;
        }
        return cuda.allocate(rounded, MemoryUse.ACTIVATIONS);
    }

    @Override
    protected void giveBack(Allocation memory) {
        idle.computeIfAbsent(memory.bytes(), n -> new ArrayDeque<>()).push(memory);
    }

    /** Not while a profile is taken, which could not look into a recorded step. */
    @Override
    public boolean records() {
        return cuda.profile() == null;
    }

    @Override
    public Recording record(Runnable step) {
        cuda.context().enter();
        CUgraph graph = new CUgraph();
        cuda.recording(true);
        check(JCudaDriver.cuStreamBeginCapture(handle(), CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
                "cuStreamBeginCapture");
        int rc;
        try {
            step.run();
        } finally {
            cuda.recording(false);
            rc = JCudaDriver.cuStreamEndCapture(handle(), graph);
        }
        check(rc, "cuStreamEndCapture");
        CUgraphExec executable = new CUgraphExec();
        rc = JCudaDriver.cuGraphInstantiate(executable, graph, 0);
        check(JCudaDriver.cuGraphDestroy(graph), "cuGraphDestroy");
        check(rc, "cuGraphInstantiate");
        return new Graph(executable);
    }

    private final class Graph implements Recording {
        private final CUgraphExec executable;
        private boolean closed;

        Graph(CUgraphExec executable) {
            this.executable = executable;
        }

        @Override
        public void replay() {
            cuda.context().enter();
            check(JCudaDriver.cuGraphLaunch(executable, handle()), "cuGraphLaunch");
        }

        @Override
        public void close() {
            if (!closed) {
                closed = true;
                cuda.synchronize();
                check(JCudaDriver.cuGraphExecDestroy(executable), "cuGraphExecDestroy");
            }
        }
    }

    @Override
    public void close() {
        super.close();
        idle.values().forEach(d -> d.forEach(Allocation::close));
        idle.clear();
    }
}
