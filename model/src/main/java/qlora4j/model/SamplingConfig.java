package qlora4j.model;

/**
 * How the next token is chosen.
 *
 * @param doSample draw from the distribution; false: always the likeliest token
 * @param temperature divides the logits, &gt; 0
 * @param topK keep the k likeliest; 0: all
 * @param topP keep the likeliest that together reach this probability, in (0, 1]
 * @param repetitionPenalty divides positive and multiplies negative logits of tokens seen before; 1: none
 * @param seed of the draw
 */
public record SamplingConfig(boolean doSample, double temperature, int topK, double topP, double repetitionPenalty,
        long seed) {
    public static final SamplingConfig GREEDY = new SamplingConfig(false, 1, 0, 1, 1, 0);

    public SamplingConfig {
        if (!(temperature > 0) || Double.isInfinite(temperature)) {
            throw new IllegalArgumentException("--temperature " + temperature
                    + ": must be above 0 (leave it out for greedy decoding)");
        }
        if (topK < 0) {
            throw new IllegalArgumentException("--top-k " + topK + ": must be 0 (off) or more");
        }
        if (!(topP > 0 && topP <= 1)) {
            throw new IllegalArgumentException("--top-p " + topP + ": must be above 0 and at most 1");
        }
        if (!(repetitionPenalty > 0) || Double.isInfinite(repetitionPenalty)) {
            throw new IllegalArgumentException("--repetition-penalty " + repetitionPenalty + ": must be above 0");
        }
    }

    /** The settings of a command line, where a temperature of 0 asks for greedy decoding. */
    public static SamplingConfig of(double temperature, int topK, double topP, double repetitionPenalty, long seed) {
        boolean greedy = temperature == 0;
        return new SamplingConfig(!greedy, greedy ? 1 : temperature, topK, topP, repetitionPenalty, seed);
    }
}
