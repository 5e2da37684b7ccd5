package qlora4j.cli.brokenhouse.stray;

/** Lives in a module that nobody declared. */
final class Unknown {
}
