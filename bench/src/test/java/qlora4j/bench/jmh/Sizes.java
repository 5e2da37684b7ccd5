package qlora4j.bench.jmh;

/** How sizes are written as JMH parameters. */
final class Sizes {
    private Sizes() {
    }

    /** {@code 4096x14336} as rows and columns. */
    static int[] matrix(String text) {
        String[] parts = text.split("x", 2);
        return new int[]{Integer.parseInt(parts[0]), Integer.parseInt(parts[1])};
    }
}
