package qlora4j.model;

import java.lang.foreign.MemorySegment;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Device;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Layer inputs in page-locked host memory: one piece for each layer but the last, whose input is needed at once. */
public final class HostLayerInputs implements LayerInputStore {
    private final HostCopies copies;
    private final MemorySegment[] pieces;

    /**
     * Takes the memory.
     *
     * @param copies of the device; closed with this
     * @param layers of the model
     * @param bytes of the largest layer input, [rows, hidden]
     */
    public HostLayerInputs(HostCopies copies, int layers, long bytes) {
        this.copies = copies;
        pieces = new MemorySegment[layers - 1];
        try {
            for (int i = 0; i < pieces.length; i++) {
                pieces[i] = copies.hostMemory(bytes);
            }
        } catch (RuntimeException e) {
            copies.close();
            throw e;
        }
    }

    /** A plan's: nothing is copied and nothing held. */
    private HostLayerInputs() {
        copies = null;
        pieces = null;
    }

    /**
     * For a decoder's layers.
     *
     * @param rows of the largest batch
     * @throws IllegalArgumentException where the device is the host
     */
    public static HostLayerInputs open(Decoder decoder, int rows) {
        Backend backend = decoder.backend();
        if (backend.device().equals(Device.PLAN)) {
            return new HostLayerInputs();
        }
        requireGpu(backend);
        DecoderConfig c = decoder.config();
        return new HostLayerInputs(backend.openHostCopies(), c.layers(),
                decoder.type().bytes((long) rows * c.hidden()));
    }

    /**
     * Refuses a backend that computes in host memory: for those who would not wait until the layers are loaded.
     *
     * @throws IllegalArgumentException where the device is the host
     */
    public static void requireGpu(Backend backend) {
        if (backend.device().isHost()) {
            throw new IllegalArgumentException("--offload-activations moves layer inputs from a GPU to host memory, and"
                    + " the " + backend.name() + " backend computes there: leave the flag out, or give --backend cuda");
        }
    }

    @Override
    public void put(Stream s, int layer, Tensor h) {
        if (!s.isPlan()) {
            copies.beginToHost(h, pieces[layer].asSlice(0, h.bytes()));
        }
    }

    @Override
    public void get(Stream s, int layer, Tensor h) {
        if (!s.isPlan()) {
            copies.beginToDevice(pieces[layer].asSlice(0, h.bytes()), h);
        }
    }

    @Override
    public void settle(Stream s) {
        if (!s.isPlan()) {
            copies.queueWaits();
        }
    }

    @Override
    public void close() {
        if (copies != null) {
            copies.close();
        }
    }
}
