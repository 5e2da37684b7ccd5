package qlora4j.cli.brokenhouse.nf4;

import jdk.incubator.vector.FloatVector;

/** Kernels of this name may speak the Vector API, their nested classes too. */
final class VectorInnocent {

    record Nested(FloatVector vector) {
    }
}
