package qlora4j.cuda;

import java.lang.foreign.MemorySegment;
import jcuda.Pointer;
import jcuda.driver.CUdeviceptr;

/** Addresses of device and host memory, from and to the objects that JCuda wraps them in. */
final class Address extends CUdeviceptr {
    /** JCuda has no constructor for a device address; an address is an offset from this null pointer. */
    private static final CUdeviceptr NULL = new CUdeviceptr();

    private Address(CUdeviceptr base, long offset) {
        super(base, offset);
    }

    /** An address of device memory. */
    static CUdeviceptr device(long address) {
        return new Address(NULL, address);
    }

    /** An address of host memory outside of the Java heap. */
    static Pointer host(MemorySegment segment) {
        return new Host(segment.address());
    }

    /** The device address that the driver wrote into {@code p}. */
    static long of(CUdeviceptr p) {
        Address copy = new Address(p, 0);
        return copy.getNativePointer() + copy.getByteOffset();
    }

    /** The host address that the driver wrote into {@code p}. */
    static long of(Pointer p) {
        return new Host(p).value();
    }

    private static final class Host extends Pointer {
        Host(long address) {
            super(address);
        }

        Host(Pointer p) {
            super(p);
        }

        long value() {
            return getNativePointer() + getByteOffset();
        }
    }
}
