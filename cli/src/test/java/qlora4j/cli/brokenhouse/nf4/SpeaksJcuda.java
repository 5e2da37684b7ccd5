package qlora4j.cli.brokenhouse.nf4;

import jcuda.Pointer;

record SpeaksJcuda(Pointer pointer) {
}
