package qlora4j.cli.brokenhouse.tensor;

/** What everybody may use. */
public final class Plain {
}
