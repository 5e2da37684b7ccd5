package qlora4j.cli.brokenhouse.nf4;

import picocli.CommandLine;

record SpeaksPicocli(CommandLine line) {
}
