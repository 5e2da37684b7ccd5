package qlora4j.train.demo;

import java.util.List;

/**
 * The words that the generator's sentences are made of. All are lower-case but the names, and in a sentence each follows a
 * space, so that a word is the same tokens wherever it stands.
 */
final class DemoWords {
    /** A group of things: its name and its members. No word is in two groups. */
    record Group(String name, List<String> members) {
    }

    static final List<Group> GROUPS = List.of(
            group("animals", "cat dog cow horse sheep goat pig mouse lion tiger bear wolf fox rabbit"),
            group("fruits", "apple pear plum cherry grape lemon melon mango banana kiwi"),
            group("colors", "red blue green yellow black white brown pink purple gray"),
            group("tools", "hammer saw drill shovel rake axe wrench knife"),
            group("vehicles", "car bus train truck boat ship bike plane tram"),
            group("clothes", "shirt coat hat scarf sock shoe glove belt"),
            group("furniture", "table chair bed sofa desk shelf lamp mirror"),
            group("drinks", "water milk tea coffee juice wine beer soda"),
            group("plants", "tree flower grass rose tulip oak fern moss"),
            group("instruments", "piano guitar violin flute drum harp trumpet bell"));

    /** Things that can be counted, with their plurals. */
    static final List<String[]> PLURALS = pairs("""
            cat cats, dog dogs, cow cows, goat goats, pig pigs, lion lions, bear bears, apple apples, pear pears,
            plum plums, lemon lemons, drill drills, car cars, truck trucks, boat boats, ship ships, bike bikes,
            shirt shirts, coat coats, hat hats, sock socks, shoe shoes, chair chairs, lamp lamps, tree trees,
            flower flowers, bell bells, drum drums, bus buses, fox foxes, cherry cherries, mouse mice, wolf wolves,
            knife knives, shelf shelves""");

    /** Words and their opposites. */
    static final List<String[]> OPPOSITES = pairs("""
            hot cold, big small, tall short, fast slow, old young, good bad, happy sad, light dark, full empty,
            open closed, early late, hard soft, wet dry, rich poor, strong weak, loud quiet, high low, thick thin,
            deep shallow, clean dirty, near far, cheap expensive, sweet sour, brave afraid""");

    /** Things and their color. */
    static final List<String[]> COLORED = pairs("""
            snow white, grass green, coal black, milk white, blood red, chocolate brown, gold yellow, night black,
            sky blue, ocean blue, rust brown, smoke gray, cotton white, banana yellow, tomato red, frog green,
            crow black, swan white, lemon yellow, moss green""");

    static final List<String> NAMES = words("Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Lena Max Nora "
            + "Oscar Paula Rosa Simon Tom Vera");

    static final List<String> VERBS = words("sees paints finds likes sells wants draws hides holds buys");

    static final List<String> JOINERS = words("and or then with plus near");

    static final List<String> DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");

    static final List<String> MONTHS = words("January February March April May June July August September October "
            + "November December");

    /** The members of all groups. */
    static final List<String> THINGS = GROUPS.stream().flatMap(g -> g.members().stream()).toList();

    /** The members that someone can see, have or hold. */
    static final List<String> OBJECTS = GROUPS.stream().filter(g -> !g.name().equals("colors"))
            .flatMap(g -> g.members().stream()).toList();

    private DemoWords() {
    }

    private static Group group(String name, String members) {
        return new Group(name, words(members));
    }

    private static List<String> words(String spaced) {
        return List.of(spaced.strip().split("\\s+"));
    }

    private static List<String[]> pairs(String text) {
        return List.of(text.strip().split(",\\s*")).stream().map(p -> p.split(" ")).toList();
    }
}
