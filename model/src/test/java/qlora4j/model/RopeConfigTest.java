package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import org.junit.jupiter.api.Test;

class RopeConfigTest {
    /**
     * The only step without an exact answer is the power: PyTorch's and ours may differ by an ulp of float32. In the
     * blend, the difference turns - lowFreqFactor can lose a factor of about the wavelengths' ratio, here under 4.
     */
    private static final double ULP = Math.scalb(1.0, -23);

    private static void near(double[] actual, double[] expected, double ulps) {
        assertThat(actual).hasSameSizeAs(expected);
        for (int i = 0; i < actual.length; i++) {
            assertThat(actual[i]).as("frequency %d", i).isEqualTo((float) actual[i]);
            assertThat(Math.abs(actual[i] - expected[i]) <= ulps * ULP * expected[i])
                    .as("frequency %d: %s, recorded %s", i, actual[i], expected[i]).isTrue();
        }
    }

    @Test
    void unscaledFrequenciesAreThoseOfTransformers() throws IOException {
        // PyTorch 2.15, CPU: 1.0 / (base ** (arange(0, dim, 2).float() / dim))
        near(DecoderConfig.read(Golden.path("llama/base")).inverseFrequencies(), new double[]{1.0, 0.3162277638912201,
                0.10000000149011612, 0.03162277862429619, 0.009999999776482582, 0.003162277862429619,
                0.0010000000474974513, 0.0003162277862429619}, 1);
    }

    @Test
    void scaledFrequenciesAreThoseOfTransformers() throws IOException {
        // the same, through _compute_llama3_parameters; the recorded model's, then Llama 3.2's
        near(DecoderConfig.read(Golden.path("llama3/base")).inverseFrequencies(),
                new double[]{1.0, 0.024240344762802124,
                        0.004700753837823868, 0.0009115831344388425, 0.00017677668074611574, 3.428102354519069e-05,
                        6.647869668086059e-06, 1.289173155782919e-06},
                4);
        near(new RopeConfig(500000, RopeConfig.Type.LLAMA3, 32, 1, 4, 8192).inverseFrequencies(64),
                new double[]{1.0, 0.663601279258728, 0.44036662578582764, 0.2922278344631195, 0.193922758102417,
                        0.12868738174438477, 0.08539710193872452, 0.05666961893439293, 0.03760603070259094,
                        0.02495540864765644, 0.016560440883040428, 0.010989529080688953, 0.00729266507551074,
                        0.00483942124992609, 0.0032114461064338684, 0.0012905480107292533, 0.000429556705057621,
                        9.708286233944818e-05, 1.9461638657958247e-05, 1.291476746700937e-05, 8.570255886297673e-06,
                        5.687232260243036e-06, 3.7740544485131977e-06, 2.504467147446121e-06, 1.6619674170215148e-06,
                        1.1028836297555245e-06, 7.318749339901842e-07, 4.856731266045244e-07, 3.2229328894572973e-07,
                        2.1387423032592778e-07, 1.4192720243499934e-07, 9.418306490260875e-08},
                4);
    }

    @Test
    void impossibleSettingsAreRefused() {
        assertThatThrownBy(() -> RopeConfig.unscaled(Double.NaN)).hasMessageContaining("rope_theta");
        assertThatThrownBy(() -> new RopeConfig(1e4, RopeConfig.Type.LLAMA3, Double.NaN, 1, 4, 32))
                .hasMessageContaining("factor");
        assertThatThrownBy(() -> new RopeConfig(1e4, RopeConfig.Type.LLAMA3, 8, 4, 4, 32))
                .hasMessageContaining("low_freq_factor");
        assertThatThrownBy(() -> new RopeConfig(1e4, RopeConfig.Type.LLAMA3, 8, 1, 4, 0))
                .hasMessageContaining("original_max_position_embeddings");
    }
}
