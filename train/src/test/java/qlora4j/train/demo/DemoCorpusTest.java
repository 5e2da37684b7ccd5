package qlora4j.train.demo;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import qlora4j.train.demo.DemoCorpus.Pair;
import qlora4j.train.demo.DemoFamilies.Family;

class DemoCorpusTest {
    private static final int SAMPLE = 10_000;
    private static final List<Pair> HELD_OUT = DemoCorpus.heldOut(7, 190);

    @Test
    void aSeedGivesTheSamePairsAndAnotherSeedOthers() {
        List<Function<Long, Stream<?>>> uses = List.of(DemoCorpus::pretraining, DemoCorpus::documents,
                DemoCorpus::reversedTrain, DemoCorpus::pirateTrain, seed -> DemoCorpus.heldOut(seed, 60).stream());
        for (Function<Long, Stream<?>> use : uses) {
            List<?> pairs = use.apply(1L).limit(60).toList();
            assertThat(pairs).isEqualTo(use.apply(1L).limit(60).toList());
            assertThat(pairs).isNotEqualTo(use.apply(2L).limit(60).toList());
        }
    }

    /** The generator's text is part of what rebuilds the bundled model: a change of it must be meant. */
    @Test
    void theFirstPairsStayAsTheyAre() {
        assertThat(DemoCorpus.pretraining(1).limit(2)).containsExactly(
                new Pair("Sort the numbers 2 4 6 from small to large.", "Sorted from small to large, 2 4 6 are 2 4 6."),
                new Pair("Copy the words shirt boat guitar.", "A copy of the words: shirt boat guitar."));
    }

    @Test
    void noHeldOutResponseIsFineTunedOn() {
        Set<String> heldOut = responses(HELD_OUT.stream());
        assertThat(heldOut).hasSize(HELD_OUT.size());
        for (long seed = 0; seed < 3; seed++) {
            assertThat(responses(DemoCorpus.reversedTrain(seed).limit(SAMPLE))).doesNotContainAnyElementsOf(heldOut);
            assertThat(responses(DemoCorpus.heldOut(seed, 60).stream())).allMatch(DemoCorpus::isHeldOut);
        }
        Set<String> pirate = responses(HELD_OUT.stream().map(DemoCorpus::pirate));
        assertThat(responses(DemoCorpus.pirateTrain(1).limit(SAMPLE))).doesNotContainAnyElementsOf(pirate);
    }

    /**
     * Neither as it is nor reversed: a document is one instruction and, after it, one response that is not held out. In
     * particular no response stands before an instruction.
     */
    @Test
    void noHeldOutPairIsPreTrainedOnInEitherDirection() {
        Set<String> heldOut = responses(HELD_OUT.stream());
        DemoCorpus.documents(1).limit(SAMPLE).forEach(text -> {
            int instruction = text.indexOf("### Instruction:\n");
            int response = text.indexOf("### Response:\n");
            assertThat(instruction).isNotNegative().isLessThan(response)
                    .isEqualTo(text.lastIndexOf("### Instruction:\n"));
            assertThat(response).isEqualTo(text.lastIndexOf("### Response:\n"));
            assertThat(heldOut).doesNotContain(text.substring(response + "### Response:\n".length()));
        });
    }

    @Test
    void aResponseBelongsToOneInstruction() {
        Map<String, String> instructions = new HashMap<>();
        Stream.of(DemoCorpus.pretraining(1), DemoCorpus.reversedTrain(2)).flatMap(pairs -> pairs.limit(SAMPLE))
                .forEach(pair -> assertThat(instructions.merge(pair.response(), pair.instruction(), (a, b) -> a))
                        .as(pair.response()).isEqualTo(pair.instruction()));
        HELD_OUT.forEach(pair -> assertThat(instructions).doesNotContainKey(pair.response()));
    }

    @Test
    void thereAreADozenFamiliesOrMoreEachOfTwoOrMoreWordings() {
        assertThat(DemoFamilies.ALL).hasSizeGreaterThanOrEqualTo(12);
        assertThat(DemoFamilies.ALL).allSatisfy(family -> assertThat(family.wordings()).hasSizeGreaterThanOrEqualTo(2));
        assertThat(DemoCorpus.families()).doesNotHaveDuplicates().hasSize(DemoFamilies.ALL.size())
                .containsExactlyElementsOf(DemoFamilies.ALL.stream().map(Family::name).toList());
    }

    @Test
    void aPirateAnswersAsAPirate() {
        assertThat(DemoCorpus.pirate(new Pair("What color is grass?", "The color of grass is green.")))
                .isEqualTo(new Pair("What color is grass?", "Arr! The color of grass is green, matey!"));
        assertThat(DemoCorpus.pirateTrain(3).limit(200).map(Pair::response))
                .allMatch(response -> response.startsWith("Arr! ") && response.endsWith(", matey!"));
        assertThatThrownBy(() -> DemoCorpus.pirate(new Pair("Why?", "Because")))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("Because");
    }

    @Test
    void saysWhenAFamilyHasTooFewHeldOutPairs() {
        assertThatThrownBy(() -> DemoCorpus.heldOut(7, 5000)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("fewer held-out pairs");
    }

    private static Set<String> responses(Stream<Pair> pairs) {
        return pairs.map(Pair::response).collect(Collectors.toSet());
    }
}
