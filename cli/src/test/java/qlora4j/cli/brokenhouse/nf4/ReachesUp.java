package qlora4j.cli.brokenhouse.nf4;

import qlora4j.cli.brokenhouse.tensor.Plain;

/** nf4 depends on nothing. */
record ReachesUp(Plain tensor) {
}
