package qlora4j.train.demo;

import static qlora4j.train.demo.Draw.join;
import static qlora4j.train.demo.Draw.list;
import static qlora4j.train.demo.Draw.reversed;
import static qlora4j.train.demo.Draw.sorted;

import java.util.Collections;
import java.util.List;
import java.util.function.Function;
import qlora4j.train.demo.DemoCorpus.Pair;

/**
 * The families of instructions. Each has two or more wordings, and each wording its own style of response, which holds all
 * that the instruction holds: a reader of the response can write the one instruction that it answers. Words and numbers
 * follow a space everywhere, so that both sides spell them with the same tokens.
 */
final class DemoFamilies {
    /** A family: its name, and for each wording how a pair is drawn. */
    record Family(String name, List<Function<Draw, Pair>> wordings) {
        Pair draw(Draw d) {
            return d.oneOf(wordings).apply(d);
        }
    }

    static final List<Family> ALL = List.of(
            new Family("opposite", List.of(DemoFamilies::opposite, DemoFamilies::antonym, DemoFamilies::notThat)),
            new Family("odd one out", List.of(DemoFamilies::oddOneOut, DemoFamilies::doesNotBelong)),
            new Family("sort words", List.of(DemoFamilies::alphabet, DemoFamilies::fromAToZ)),
            new Family("sort numbers", List.of(DemoFamilies::ascending, DemoFamilies::descending)),
            new Family("count", List.of(DemoFamilies::countWords, DemoFamilies::countThese)),
            new Family("pattern", List.of(DemoFamilies::continuePattern, DemoFamilies::comesNext)),
            new Family("rename", List.of(DemoFamilies::rename, DemoFamilies::replace)),
            new Family("reverse", List.of(DemoFamilies::reverse, DemoFamilies::backwards)),
            new Family("category", List.of(DemoFamilies::group, DemoFamilies::inGroup)),
            new Family("compare", List.of(DemoFamilies::larger, DemoFamilies::lessThan)),
            new Family("plural", List.of(DemoFamilies::plural, DemoFamilies::pluralsOfTwo)),
            new Family("letters", List.of(DemoFamilies::firstLetter, DemoFamilies::lastLetter)),
            new Family("add", List.of(DemoFamilies::plus, DemoFamilies::addUp, DemoFamilies::story)),
            new Family("neighbor", List.of(DemoFamilies::nextInRow, DemoFamilies::numberBefore)),
            new Family("who has", List.of(DemoFamilies::whoHas, DemoFamilies::whatHas)),
            new Family("join", List.of(DemoFamilies::joinWith, DemoFamilies::useBetween)),
            new Family("repeat", List.of(DemoFamilies::repeat, DemoFamilies::sayTimes)),
            new Family("color", List.of(DemoFamilies::color, DemoFamilies::twoColors)),
            new Family("copy", List.of(DemoFamilies::copy, DemoFamilies::writeAgain)));

    private DemoFamilies() {
    }

    private static Pair pair(String instruction, String response) {
        return new Pair(instruction, response);
    }

    private static String[] opposites(Draw d) {
        String[] pair = d.oneOf(DemoWords.OPPOSITES);
        return d.coin() ? pair : new String[]{pair[1], pair[0]};
    }

    private static Pair opposite(Draw d) {
        String[] o = opposites(d);
        return pair("What is the opposite of " + o[0] + "?", "The opposite of " + o[0] + " is " + o[1] + ".");
    }

    private static Pair antonym(Draw d) {
        String[] o = opposites(d);
        return pair("Give me an antonym of " + o[0] + ".", "An antonym of " + o[0] + " is " + o[1] + ".");
    }

    private static Pair notThat(Draw d) {
        String[] o = opposites(d);
        return pair("If something is not " + o[0] + ", what is it?", "If it is not " + o[0] + ", it is " + o[1] + ".");
    }

    /** Three members of one group and, last, one of another. */
    private static List<String> threeAndOne(Draw d) {
        List<DemoWords.Group> groups = d.distinct(DemoWords.GROUPS, 2);
        List<String> words = d.distinct(groups.get(0).members(), 3);
        words.add(d.oneOf(groups.get(1).members()));
        return words;
    }

    private static Pair oddOneOut(Draw d) {
        List<String> words = threeAndOne(d);
        String all = list(d.distinct(words, 4));
        return pair("Which is the odd one out: " + all + "?",
                "In the list " + all + " the odd one out is " + words.get(3)
                        + ".");
    }

    private static Pair doesNotBelong(Draw d) {
        List<String> words = threeAndOne(d);
        String all = list(d.distinct(words, 4));
        return pair("Find the word that does not belong: " + all + ".",
                "Among " + all + " the word that does not belong is " + words.get(3) + ".");
    }

    private static List<String> things(Draw d, int low, int high) {
        return d.distinct(DemoWords.THINGS, d.between(low, high));
    }

    private static Pair alphabet(Draw d) {
        List<String> words = things(d, 3, 4);
        return pair("Sort these words by alphabet: " + list(words) + ".",
                "The words " + list(words) + " sorted by alphabet are " + list(sorted(words)) + ".");
    }

    private static Pair fromAToZ(Draw d) {
        List<String> words = things(d, 3, 4);
        return pair("Put " + list(words) + " in order from a to z.",
                "From a to z, " + list(words) + " become " + list(sorted(words)) + ".");
    }

    private static List<Integer> digits(Draw d) {
        return d.numbers(d.between(3, 5), 1, 9);
    }

    private static Pair ascending(Draw d) {
        List<Integer> numbers = digits(d);
        return pair("Sort the numbers " + list(numbers) + " from small to large.",
                "Sorted from small to large, " + list(numbers) + " are " + list(sorted(numbers)) + ".");
    }

    private static Pair descending(Draw d) {
        List<Integer> numbers = digits(d);
        return pair("Order " + list(numbers) + " from large to small.",
                "In order from large to small, " + list(numbers) + " are " + list(reversed(sorted(numbers))) + ".");
    }

    private static Pair countWords(Draw d) {
        List<String> words = things(d, 2, 5);
        return pair("How many words are in the list " + list(words) + "?",
                "There are " + words.size() + " words in the list " + list(words) + ".");
    }

    private static Pair countThese(Draw d) {
        List<String> words = things(d, 2, 5);
        return pair("Count these: " + list(words) + ".", "Counting " + list(words) + " gives " + words.size() + ".");
    }

    private static Pair continuePattern(Draw d) {
        List<String> two = d.distinct(DemoWords.THINGS, 2);
        String shown = list(two) + " " + list(two);
        return pair("Continue the pattern " + shown + ".",
                "The pattern " + shown + " continues with " + two.get(0) + ".");
    }

    private static Pair comesNext(Draw d) {
        List<String> three = d.distinct(DemoWords.THINGS, 3);
        String shown = list(three) + " " + list(three.subList(0, 2));
        return pair("What comes next after " + shown + "?", "After " + shown + " comes " + three.get(2) + ".");
    }

    private static Pair rename(Draw d) {
        List<String> names = d.distinct(DemoWords.NAMES, 2);
        String rest = " " + d.oneOf(DemoWords.VERBS) + " the " + d.oneOf(DemoWords.OBJECTS) + ".";
        return pair("Rename " + names.get(0) + " to " + names.get(1) + ": " + names.get(0) + rest,
                "Renamed from " + names.get(0) + ": " + names.get(1) + rest);
    }

    private static Pair replace(Draw d) {
        List<String> words = d.distinct(DemoWords.OBJECTS, 3);
        String start = " " + d.oneOf(DemoWords.NAMES) + " " + d.oneOf(DemoWords.VERBS) + " the ";
        String end = " and the " + words.get(2) + ".";
        return pair("Replace " + words.get(0) + " by " + words.get(1) + " in:" + start + words.get(0) + end,
                "With " + words.get(1) + " for " + words.get(0) + ":" + start + words.get(1) + end);
    }

    private static Pair reverse(Draw d) {
        List<String> words = things(d, 3, 4);
        return pair("Reverse the list " + list(words) + ".", "The list in reverse is " + list(reversed(words)) + ".");
    }

    private static Pair backwards(Draw d) {
        List<String> words = things(d, 3, 4);
        return pair("Say the words " + list(words) + " backwards.",
                "Said backwards, the words are " + list(reversed(words)) + ".");
    }

    private static Pair group(Draw d) {
        DemoWords.Group group = d.oneOf(DemoWords.GROUPS);
        String word = d.oneOf(group.members());
        return pair("To which group does " + word + " belong?",
                "The word " + word + " belongs to the " + group.name() + ".");
    }

    private static Pair inGroup(Draw d) {
        List<DemoWords.Group> groups = d.distinct(DemoWords.GROUPS, 2);
        String word = d.oneOf(groups.get(0).members());
        String right = groups.get(0).name();
        if (d.coin()) {
            return pair("Is " + word + " one of the " + right + "?", "Yes, " + word + " is one of the " + right + ".");
        }
        String wrong = groups.get(1).name();
        return pair("Is " + word + " one of the " + wrong + "?",
                "No, " + word + " is not one of the " + wrong + " but of the " + right + ".");
    }

    private static Pair larger(Draw d) {
        List<Integer> two = d.numbers(2, 1, 99);
        return pair("Which is larger, " + two.get(0) + " or " + two.get(1) + "?",
                "Of " + two.get(0) + " and " + two.get(1) + ", the larger is " + Collections.max(two) + ".");
    }

    private static Pair lessThan(Draw d) {
        List<Integer> two = d.numbers(2, 1, 99);
        boolean less = two.get(0) < two.get(1);
        return pair("Is " + two.get(0) + " less than " + two.get(1) + "?",
                (less ? "Yes, " : "No, ") + two.get(0) + (less ? " is less than " : " is not less than ") + two.get(1)
                        + ".");
    }

    private static Pair plural(Draw d) {
        String[] p = d.oneOf(DemoWords.PLURALS);
        return pair("What is the plural of " + p[0] + "?", "The plural of " + p[0] + " is " + p[1] + ".");
    }

    private static Pair pluralsOfTwo(Draw d) {
        List<String[]> two = d.distinct(DemoWords.PLURALS, 2);
        String[] a = two.get(0);
        String[] b = two.get(1);
        return pair("Write more than one " + a[0] + " and " + b[0] + ".",
                "One " + a[0] + ", many " + a[1] + ", one " + b[0] + ", many " + b[1] + ".");
    }

    private static Pair firstLetter(Draw d) {
        String word = d.oneOf(DemoWords.THINGS);
        return pair("What is the first letter of " + word + "?",
                "The first letter of " + word + " is " + word.charAt(0) + ".");
    }

    private static Pair lastLetter(Draw d) {
        String word = d.oneOf(DemoWords.THINGS);
        return pair("With which letter does " + word + " end?",
                "The word " + word + " ends with the letter " + word.charAt(word.length() - 1) + ".");
    }

    private static Pair plus(Draw d) {
        int a = d.between(1, 49);
        int b = d.between(1, 49);
        return pair("What is " + a + " plus " + b + "?", "The sum of " + a + " plus " + b + " is " + (a + b) + ".");
    }

    private static Pair addUp(Draw d) {
        int a = d.between(1, 49);
        int b = d.between(1, 49);
        return pair("Add " + a + " and " + b + ".", "Adding " + a + " and " + b + " gives " + (a + b) + ".");
    }

    private static Pair story(Draw d) {
        String name = d.oneOf(DemoWords.NAMES);
        String things = d.oneOf(DemoWords.PLURALS)[1];
        int a = d.between(2, 20);
        int b = d.between(2, 20);
        return pair("If " + name + " has " + a + " " + things + " and buys " + b + " more, how many is that?",
                "With " + a + " " + things + " and " + b + " more, " + name + " has " + (a + b) + ".");
    }

    private static Pair nextInRow(Draw d) {
        boolean day = d.coin();
        List<String> row = day ? DemoWords.DAYS : DemoWords.MONTHS;
        String what = day ? "day" : "month";
        int at = d.between(0, row.size() - 1);
        boolean after = d.coin();
        String side = after ? "after" : "before";
        return pair("Which " + what + " comes " + side + " " + row.get(at) + "?", "The " + what + " " + side + " "
                + row.get(at) + " is " + row.get((at + (after ? 1 : row.size() - 1)) % row.size()) + ".");
    }

    private static Pair numberBefore(Draw d) {
        int n = d.between(2, 199);
        boolean after = d.coin();
        String side = after ? "after" : "before";
        return pair("Name the number " + side + " " + n + ".",
                "The number " + side + " " + n + " is " + (after ? n + 1 : n - 1) + ".");
    }

    private static Pair whoHas(Draw d) {
        List<String> names = d.distinct(DemoWords.NAMES, 2);
        List<String> things = d.distinct(DemoWords.OBJECTS, 2);
        int asked = d.between(0, 1);
        return pair(
                "Who has the " + things.get(asked) + " if " + names.get(0) + " has the " + things.get(0) + " and "
                        + names.get(1) + " has the " + things.get(1) + "?",
                "If " + names.get(0) + " has the " + things.get(0) + " and " + names.get(1) + " has the "
                        + things.get(1)
                        + ", then " + names.get(asked) + " has the " + things.get(asked) + ".");
    }

    private static Pair whatHas(Draw d) {
        List<String> names = d.distinct(DemoWords.NAMES, 2);
        List<String> things = d.distinct(DemoWords.OBJECTS, 2);
        String both = " " + names.get(0) + " holds the " + things.get(0) + " and " + names.get(1) + " holds the "
                + things.get(1);
        int asked = d.between(0, 1);
        return pair("Here" + both + ". What does " + names.get(asked) + " hold?",
                "When" + both + ", the thing of " + names.get(asked) + " is the " + things.get(asked) + ".");
    }

    private static Pair joinWith(Draw d) {
        List<String> words = things(d, 3, 4);
        String joiner = d.oneOf(DemoWords.JOINERS);
        return pair("Join the words " + list(words) + " with " + joiner + ".",
                "Joined with " + joiner + ": " + join(words, " " + joiner + " ") + ".");
    }

    private static Pair useBetween(Draw d) {
        List<String> words = things(d, 3, 4);
        String joiner = d.oneOf(DemoWords.JOINERS);
        return pair("Use " + joiner + " between " + list(words) + ".",
                "Using " + joiner + " between them: " + join(words, " " + joiner + " ") + ".");
    }

    private static Pair repeat(Draw d) {
        String word = d.oneOf(DemoWords.THINGS);
        int times = d.between(2, 5);
        return pair("Repeat the word " + word + " " + times + " times.",
                "Repeated " + times + " times: " + list(Collections.nCopies(times, word)) + ".");
    }

    private static Pair sayTimes(Draw d) {
        List<String> words = d.distinct(DemoWords.THINGS, 2);
        String both = words.get(0) + " " + words.get(1);
        int times = d.between(2, 3);
        return pair("Say " + both + " " + times + " times.",
                "Here it is " + times + " times: " + join(Collections.nCopies(times, both), ", ") + ".");
    }

    private static Pair color(Draw d) {
        String[] c = d.oneOf(DemoWords.COLORED);
        return pair("What color is " + c[0] + "?", "The color of " + c[0] + " is " + c[1] + ".");
    }

    private static Pair twoColors(Draw d) {
        List<String[]> two = d.distinct(DemoWords.COLORED, 2);
        String[] a = two.get(0);
        String[] b = two.get(1);
        return pair("Name the colors of " + a[0] + " and " + b[0] + ".",
                "The colors are " + a[1] + " for " + a[0] + " and " + b[1] + " for " + b[0] + ".");
    }

    private static Pair copy(Draw d) {
        List<String> words = things(d, 3, 7);
        return pair("Copy the words " + list(words) + ".", "A copy of the words: " + list(words) + ".");
    }

    private static Pair writeAgain(Draw d) {
        List<Integer> numbers = digits(d);
        return pair("Write the numbers " + list(numbers) + " again.", "The numbers again: " + list(numbers) + ".");
    }
}
