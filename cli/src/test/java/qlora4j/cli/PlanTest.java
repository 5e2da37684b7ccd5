package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.cli.Ran.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code plan} against what {@code finetune} measures, and against a GPU's figures. */
class PlanTest {
    @TempDir
    private Path folder;

    private Ran plan(String... more) {
        List<String> arguments = new ArrayList<>(List.of("plan"));
        arguments.addAll(List.of(more));
        return run(arguments);
    }

    private JsonNode json() throws IOException {
        return new ObjectMapper().readTree(folder.resolve("plan.json").toFile());
    }

    /** The same flags, a 4-bit directory with blocks of its own: what is planned is what is measured. */
    @Test
    void layerInputsWaitInHostMemoryOnlyBelowAGpu() throws IOException {
        String[] job = {"--shape", "mistral-7b", "--gradient-checkpointing", "--max-seq-length", "4096",
                "--per-device-train-batch-size", "1", "--budget", "1GB", "--backend"};
        for (String name : List.of("cpu", "cuda")) {
            String[] all = java.util.Arrays.copyOf(job, job.length + 1);
            all[job.length] = name;
            assertThat(plan(all).out().contains("--offload-activations")).as(name).isEqualTo(name.equals("cuda"));
        }
    }

    @Test
    void finetuneHoldsWhatWasPlannedFromItsFlags() throws IOException {
        Path dense = TinyModel.write(folder.resolve("model"), 7);
        Path packed = folder.resolve("packed");
        assertThat(run(List.of("quantize", "--model", dense.toString(), "--output", packed.toString(), "--blocksize",
                "128", "--no-double-quant", "--quant-type", "fp4")).code()).isZero();
        List<String> flags = List.of("--model", packed.toString(), "--data",
                TinyModel.data(folder.resolve("rows.jsonl"), 12).toString(), "--output",
                folder.resolve("out").toString(),
                "--lora-r", "4", "--per_device_train_batch_size=2", "--max-steps", "2", "--threads", "2",
                "--eval-split", "0.25", "--overwrite-output-dir", "--optim-resident", "50%", "--backend", "cpu");
        List<String> planning = new ArrayList<>(flags);
        planning.addFirst("plan");
        planning.addAll(List.of("--json", folder.resolve("plan.json").toString()));
        Ran planned = run(planning);
        assertThat(planned.code()).as(planned.err()).isZero();
        List<String> training = new ArrayList<>(flags);
        training.addFirst("finetune");
        Ran trained = run(training);
        assertThat(trained.code()).as(trained.err()).isZero();
        JsonNode bytes = json().path("bytes").path("cpu");
        String measured =
                trained.out().lines().filter(l -> l.startsWith("memory measured: ")).findFirst().orElseThrow();
        for (String use : List.of("weights", "constants", "adapters", "gradients", "optimizer", "activations")) {
            assertThat(measured).contains(String.format("%s %.1f,", use, bytes.path(use).asLong() / 1e6));
        }
        assertThat(measured).contains(String.format("together %.1f MB", bytes.path("together").asLong() / 1e6));
        assertThat(bytes.path("paged_out").asLong()).isPositive();
        assertThat(planned.out()).contains("data: 9 rows");
    }

    /** Figures of docs/gpu.md, measured on an H100, within 5 %; this test runs where there is no GPU. */
    @ParameterizedTest
    @CsvSource({"mistral-7b,4,2048,100%,10.5", "mistral-7b,1,512,0%,5.88", "llama-2-70b,1,512,0%,44.5"})
    void aGpuIsPlannedWithoutOne(String shape, int rows, int length, String resident, double gigabytes)
            throws IOException {
        Ran ran = plan("--shape", shape, "--backend", "cuda", "--bf16", "--per-device-train-batch-size", "" + rows,
                "--max-seq-length", "" + length, "--gradient-checkpointing", "--lora-dropout", "0", "--optim-resident",
                resident, "--json", folder.resolve("plan.json").toString());
        assertThat(ran.code()).as(ran.err()).isZero();
        double planned = json().path("bytes").path("cuda").path("together").asLong() / 1e9;
        assertThat(Math.abs(planned - gigabytes) / gigabytes).as(ran.out()).isLessThanOrEqualTo(0.05);
    }

    /** A directory with nothing but config.json; what is proposed fits when it is done. */
    @Test
    void saysWhatToChangeToFitABudget() throws IOException {
        Path dense = TinyModel.write(folder.resolve("model"), 7);
        Path bare = Files.createDirectory(folder.resolve("bare"));
        Files.copy(dense.resolve("config.json"), bare.resolve("config.json"));
        String file = folder.resolve("plan.json").toString();
        Ran ran = plan("--model", bare.toString(), "--backend", "cpu", "--max-seq-length", "64", "--budget", "4.5MB",
                "--json", file);
        assertThat(ran.code()).as(ran.err() + ran.out()).isEqualTo(1);
        assertThat(ran.out()).contains("does not fit 4.5MB", "it does with");
        JsonNode advice = json().path("budget").path("cpu");
        assertThat(advice.path("fits_with_changes").asBoolean()).isTrue();
        List<String> changed = new ArrayList<>(List.of("plan", "--model", bare.toString(), "--backend", "cpu",
                "--max-seq-length", "64", "--budget", "4.5MB", "--json", file));
        advice.path("changes").forEach(c -> changed.addAll(List.of(c.path("flags").asText().split(" "))));
        long promised = advice.path("changes").get(advice.path("changes").size() - 1).path("bytes").asLong();
        Ran fits = run(changed);
        assertThat(fits.code()).as(fits.err() + fits.out()).isZero();
        assertThat(fits.out()).contains("cpu: fits 4.5MB");
        assertThat(json().path("bytes").path("cpu").path("together").asLong()).isEqualTo(promised);
        assertThat(plan("--model", bare.toString(), "--backend", "cpu", "--budget", "10kB").out())
                .contains("nor with all of this");
    }

    @Test
    void misuseIsNamed() {
        assertThat(plan().err()).contains("give --model DIR, or --shape NAME");
        assertThat(plan("--shape", "mistral-8b").err()).contains("--shape mistral-8b: expected one of");
        assertThat(plan("--shape", "tiny", "--budget", "much").err()).contains("--budget much: expected");
        assertThat(plan("--shape", "tiny", "--backend", "abacus").err()).contains("--backend abacus: there is no such");
        assertThat(plan("--shape", "tiny", "--data", "x.jsonl").err()).contains("--data needs the tokenizer");
    }

    @ParameterizedTest
    @CsvSource({"8GB,8000000000", "8GiB,8589934592", "8G,8589934592", "1.5kb,1500", "512MiB,536870912", "100,100"})
    void sizes(String text, long bytes) {
        assertThat(ByteSize.parse("--budget", text)).isEqualTo(bytes);
    }
}
