package qlora4j.cli.brokenhouse.model;

import qlora4j.cli.brokenhouse.tensor.Plain;

/** model reaches tensor through lora. */
record Proper(Plain tensor) {
}
