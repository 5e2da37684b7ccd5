package qlora4j.train.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import qlora4j.tensor.Philox;

/** What the families draw from a random sequence: numbers, words, lists of distinct words. */
final class Draw {
    private final Philox.Sequence random;

    Draw(Philox.Sequence random) {
        this.random = random;
    }

    /** An int from {@code low} to {@code high}, both included. */
    int between(int low, int high) {
        return low + random.nextInt(high - low + 1);
    }

    boolean coin() {
        return random.nextInt(2) == 0;
    }

    <T> T oneOf(List<T> choices) {
        return choices.get(random.nextInt(choices.size()));
    }

    /** {@code count} distinct elements in random order. */
    <T> List<T> distinct(List<T> choices, int count) {
        int[] order = random.permutation(choices.size());
        return IntStream.range(0, count).mapToObj(i -> choices.get(order[i])).collect(Collectors.toList());
    }

    /** {@code count} distinct numbers from {@code low} to {@code high}, as text. */
    List<Integer> numbers(int count, int low, int high) {
        return distinct(IntStream.rangeClosed(low, high).boxed().toList(), count);
    }

    /** The items with a space between them. */
    static String list(List<?> items) {
        return join(items, " ");
    }

    static String join(List<?> items, String between) {
        return items.stream().map(Object::toString).collect(Collectors.joining(between));
    }

    static <T> List<T> reversed(List<T> items) {
        List<T> copy = new ArrayList<>(items);
        Collections.reverse(copy);
        return copy;
    }

    static <T extends Comparable<T>> List<T> sorted(List<T> items) {
        return items.stream().sorted().toList();
    }
}
