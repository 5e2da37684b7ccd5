package qlora4j.cli.brokenhouse.lora;

import qlora4j.cli.brokenhouse.optim.CyclicToo;

public record Cyclic(CyclicToo other) {
}
