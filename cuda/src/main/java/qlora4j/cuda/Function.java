package qlora4j.cuda;

import jcuda.driver.CUfunction;

/** A function of a module, whose handle can be given to the driver by foreign function. */
final class Function extends CUfunction {
    /** The CUfunction, a pointer. */
    long address() {
        return getNativePointer();
    }
}
