package qlora4j.model;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Device;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryLedger;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A host backend whose streams record a step as a GPU's do: the step is kept and run by each replay, and the host learns
 * the tokens by copies beside the queue. It counts replays.
 */
final class RecordingBackend implements Backend {
    private final Backend host;
    private int replays;

    RecordingBackend(Backend host) {
        this.host = host;
    }

    int replays() {
        return replays;
    }

    @Override
    public String name() {
        return host.name();
    }

    @Override
    public Device device() {
        return host.device();
    }

    @Override
    public String describe() {
        return host.describe();
    }

    @Override
    public <K> K kernels(Class<K> kernelInterface) {
        return host.kernels(kernelInterface);
    }

    @Override
    public Allocation allocate(long bytes, MemoryUse use) {
        return host.allocate(bytes, use);
    }

    @Override
    public MemoryLedger ledger() {
        return host.ledger();
    }

    @Override
    public void upload(Tensor from, Tensor target) {
        host.upload(from, target);
    }

    @Override
    public void download(Tensor source, Tensor to) {
        host.download(source, to);
    }

    @Override
    public HostCopies openHostCopies() {
        return new Copies();
    }

    @Override
    public Stream openStream() {
        return new Stream(this) {
            @Override
            public boolean records() {
                return true;
            }

            @Override
            public Recording record(Runnable step) {
                return new Recording() {
                    @Override
                    public void replay() {
                        replays++;
                        step.run();
                    }

                    @Override
                    public void close() {
                        // Holds nothing.
                    }
                };
            }
        };
    }

    @Override
    public void close() {
        host.close();
    }

    private static final class Copies implements HostCopies {
        private final Arena arena = Arena.ofConfined();

        @Override
        public MemorySegment hostMemory(long bytes) {
            return arena.allocate(bytes, 64);
        }

        @Override
        public void toHost(Tensor device, MemorySegment to) {
            to.copyFrom(device.data());
        }

        @Override
        public void toDevice(MemorySegment from, Tensor device) {
            device.data().copyFrom(from);
        }

        @Override
        public void beginToHost(Tensor device, MemorySegment to) {
            toHost(device, to);
        }

        @Override
        public void beginToDevice(MemorySegment from, Tensor device) {
            toDevice(from, device);
        }

        @Override
        public void queueWaits() {
            // Copies are done when they return.
        }

        @Override
        public void await() {
            // The same.
        }

        @Override
        public void close() {
            arena.close();
        }
    }
}
