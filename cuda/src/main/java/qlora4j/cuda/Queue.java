package qlora4j.cuda;

import jcuda.driver.CUstream;

/** A driver stream whose address can be given to other libraries. */
final class Queue extends CUstream {
    /** The CUstream, a pointer. */
    long address() {
        return getNativePointer();
    }
}
