package qlora4j.lora;

import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * Regular expressions for the paths of modules. They come from files that others wrote, and some need longer than anyone
 * waits (nested repetitions try every division of a path): matching counts its steps and gives up.
 */
final class ModulePattern {
    /** Honest patterns need some hundreds of steps for a path of some tens of characters. */
    private static final int MOST_STEPS = 2_000_000;
    /** Python's named groups. */
    private static final String NAMED_GROUP = "(?P<";

    private ModulePattern() {
    }

    /**
     * The match of {@code regex} with the whole of a path, or null.
     *
     * @param flag names the expression in errors
     * @throws IllegalArgumentException if it is no expression, or the match needs too many steps
     */
    static Matcher whole(String flag, String regex, String path) {
        return match(flag, "", regex, "", path, Matcher::matches);
    }

    /** The match of {@code before + regex + after} with the beginning of a path, or null; errors as above. */
    static Matcher beginning(String flag, String before, String regex, String after, String path) {
        return match(flag, before, regex, after, path, Matcher::lookingAt);
    }

    private static Matcher match(String flag, String before, String regex, String after, String path,
            Predicate<Matcher> matches) {
        check(flag, regex);
        String what = flag + " " + regex;
        Matcher m = compile(flag, regex, before + regex + after).matcher(new Counted(what, path));
        try {
            return matches.test(m) ? m : null;
        } catch (StackOverflowError deep) {
            throw tooLong(what, path, deep);
        }
    }

    /** Fails where {@code regex} alone is no regular expression; null is none. */
    static void check(String flag, String regex) {
        if (regex != null) {
            compile(flag, regex, regex);
        }
    }

    private static Pattern compile(String flag, String shown, String regex) {
        try {
            return Pattern.compile(regex.replace(NAMED_GROUP, "(?<"));
        } catch (PatternSyntaxException e) {
            throw new IllegalArgumentException(flag + " " + shown + ": not a regular expression: "
                    + e.getDescription(), e);
        } catch (StackOverflowError deep) {
            throw new IllegalArgumentException(flag + ": the regular expression nests too deeply", deep);
        }
    }

    private static IllegalArgumentException tooLong(String what, CharSequence path, Throwable cause) {
        return new IllegalArgumentException(what + ": matching " + path + " needs too many steps; write the regular"
                + " expression without repetitions inside repetitions", cause);
    }

    /** A path that counts how often its characters are looked at. */
    private static final class Counted implements CharSequence {
        private final String what;
        private final String path;
        private int steps;

        Counted(String what, String path) {
            this.what = what;
            this.path = path;
        }

        @Override
        public char charAt(int index) {
            if (++steps > MOST_STEPS) {
                throw tooLong(what, path, null);
            }
            return path.charAt(index);
        }

        @Override
        public int length() {
            return path.length();
        }

        @Override
        public CharSequence subSequence(int start, int end) {
            return path.subSequence(start, end);
        }

        @Override
        public String toString() {
            return path;
        }
    }
}
