package qlora4j.cli.brokenhouse.cli;

/** Nobody may use the command line. */
public final class Top {
}
