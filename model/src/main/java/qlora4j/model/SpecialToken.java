package qlora4j.model;

import java.util.OptionalInt;

/**
 * A token with a role, such as the one that ends a text.
 *
 * @param text how it is written
 * @param id its id; empty where the vocabulary lacks it
 */
public record SpecialToken(String text, OptionalInt id) {
}
