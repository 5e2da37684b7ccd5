package qlora4j.cli.brokenhouse.optim;

import qlora4j.cli.brokenhouse.lora.Cyclic;

public record CyclicToo(Cyclic other) {
}
