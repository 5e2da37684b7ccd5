package qlora4j.cli.brokenhouse.nf4;

import org.apache.arrow.memory.ArrowBuf;

record SpeaksArrow(ArrowBuf buffer) {
}
