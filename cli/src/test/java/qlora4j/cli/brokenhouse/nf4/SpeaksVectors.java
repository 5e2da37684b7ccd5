package qlora4j.cli.brokenhouse.nf4;

import jdk.incubator.vector.FloatVector;

record SpeaksVectors(FloatVector vector) {
}
