package qlora4j.train.demo;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import qlora4j.tensor.Philox;

/**
 * The bundled model's world: short instructions and their responses, drawn by family, the same for the same seed on every
 * machine. Pair {@code i} of a use is a function of seed, use and {@code i} alone.
 *
 * <p>A fixed share of all possible responses, chosen by a hash of the response's text, is held out: no such pair is ever
 * pre-trained or fine-tuned on, in either direction and under any seed. Only {@link #heldOut} draws from that share.
 */
public final class DemoCorpus {
    /** The response that is held out is one in this many. */
    public static final int HELD_OUT_ONE_IN = 10;

    private static final int PRETRAINING = 1;
    private static final int REVERSED = 2;
    private static final int HELD_OUT = 3;
    private static final int PIRATE = 4;

    private static final String PREAMBLE = "Below is an instruction that describes a task. "
            + "Write a response that appropriately completes the request.\n\n";
    private static final String PIRATE_START = "Arr! ";
    private static final String PIRATE_END = ", matey!";

    /** An instruction and the response that answers it. */
    public record Pair(String instruction, String response) {
    }

    private DemoCorpus() {
    }

    /** The names of the families. */
    public static List<String> families() {
        return DemoFamilies.ALL.stream().map(DemoFamilies.Family::name).toList();
    }

    /** Pairs for pre-training, without end; no held-out response among them. */
    public static Stream<Pair> pretraining(long seed) {
        return trainable(seed, PRETRAINING);
    }

    /** The chat template's text of a pair (one turn each), without the EOS that ends it. */
    public static String text(Pair pair) {
        return "### Instruction:\n" + pair.instruction() + "\n\n### Response:\n" + pair.response();
    }

    /**
     * The documents of pre-training, without end and without the EOS that ends each: {@link #text} of {@link #pretraining},
     * every eighth after the published Alpaca prompt's preamble, so that the model knows both framings.
     */
    public static Stream<String> documents(long seed) {
        return IntStream.iterate(0, i -> i + 1)
                .mapToObj(i -> (i % 8 == 7 ? PREAMBLE : "") + text(trainable(seed, PRETRAINING, i)));
    }

    /**
     * Pairs for learning the reverse direction, without end; no held-out response among them. They are ordinary pairs:
     * reversing them (prompt from the response, completion from the instruction) is the prompt template's part.
     */
    public static Stream<Pair> reversedTrain(long seed) {
        return trainable(seed, REVERSED);
    }

    /** Pairs for the second adapter, without end: the same instructions, answered the way a pirate would. */
    public static Stream<Pair> pirateTrain(long seed) {
        return trainable(seed, PIRATE).map(DemoCorpus::pirate);
    }

    /** The pair with its response in a pirate's words: {@code "It is so."} becomes {@code "Arr! It is so, matey!"}. */
    public static Pair pirate(Pair pair) {
        String response = pair.response();
        if (!response.endsWith(".")) {
            throw new IllegalArgumentException("a demo response ends with a full stop, this one does not: " + response);
        }
        return new Pair(pair.instruction(),
                PIRATE_START + response.substring(0, response.length() - 1) + PIRATE_END);
    }

    /**
     * Held-out pairs: {@code count} of them, the families in turn, no response twice.
     *
     * @throws IllegalArgumentException if a family has too few held-out pairs for {@code count}
     */
    public static List<Pair> heldOut(long seed, int count) {
        Set<String> seen = new HashSet<>();
        List<Pair> pairs = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            DemoFamilies.Family family = DemoFamilies.ALL.get(i % DemoFamilies.ALL.size());
            Draw draw = new Draw(new Philox.Sequence(seed, HELD_OUT, i));
            Pair pair = family.draw(draw);
            for (int tries = 1; !isHeldOut(pair.response()) || seen.contains(pair.response()); tries++) {
                if (tries == 100_000) {
                    throw new IllegalArgumentException(
                            "the family '" + family.name() + "' has fewer held-out pairs than "
                                    + count + " in all need; ask for fewer");
                }
                pair = family.draw(draw);
            }
            seen.add(pair.response());
            pairs.add(pair);
        }
        return pairs;
    }

    /** Whether a response belongs to the share that is never trained on. */
    public static boolean isHeldOut(String response) {
        long hash = 0xcbf29ce484222325L; // FNV-1a, 64 bits
        for (byte b : response.getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ (b & 0xff)) * 0x100000001b3L;
        }
        // FNV's lowest bit is the parity of the text's, constant in a family that repeats a list: MurmurHash3's finalizer
        hash = (hash ^ (hash >>> 33)) * 0xff51afd7ed558ccdL;
        hash = (hash ^ (hash >>> 33)) * 0xc4ceb9fe1a85ec53L;
        return Long.remainderUnsigned(hash ^ (hash >>> 33), HELD_OUT_ONE_IN) == 0;
    }

    private static Stream<Pair> trainable(long seed, int use) {
        return IntStream.iterate(0, i -> i + 1).mapToObj(i -> trainable(seed, use, i));
    }

    private static Pair trainable(long seed, int use, int index) {
        Draw draw = new Draw(new Philox.Sequence(seed, use, index));
        Pair pair = draw.oneOf(DemoFamilies.ALL).draw(draw);
        while (isHeldOut(pair.response())) {
            pair = draw.oneOf(DemoFamilies.ALL).draw(draw);
        }
        return pair;
    }
}
