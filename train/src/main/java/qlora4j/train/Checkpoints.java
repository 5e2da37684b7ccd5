package qlora4j.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import qlora4j.optim.PagedStates;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Tensor;

/**
 * Checkpoints {@code DIR/checkpoint-STEP/}: the adapter as PEFT reads it, parameters and optimizer states bit for bit
 * ({@code trainer_state.safetensors}), and what the run was ({@code trainer_state.json}). A checkpoint is written under
 * another name, forced to the disk and renamed, so that a directory with its name is always whole.
 */
public final class Checkpoints {
    private static final Pattern NAME = Pattern.compile("checkpoint-(\\d{1,9})");
    private static final String STATE = "trainer_state.safetensors";
    private static final String JSON = "trainer_state.json";
    private static final String PARAMETERS = "parameters";
    private static final String BEST_METRIC = "best_metric";
    private static final String BEST_STEP = "best_global_step";
    private static final String WAITED = "early_stopping_patience_counter";
    private static final String UNFINISHED = ".unfinished-";
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private final Path output;
    private final Map<String, String> identity;

    /** Writes what a person can use of a checkpoint: the adapter, or the model. */
    public interface Artifact {
        void save(Path directory) throws IOException;
    }

    /**
     * The checkpoints of one output directory.
     *
     * @param identity flags and data that must be equal for a run to be continued
     */
    public Checkpoints(Path output, Map<String, String> identity) {
        this.output = output;
        this.identity = identity;
    }

    /** The newest checkpoint, if any. */
    public Optional<Path> newest() throws IOException {
        List<Path> all = all();
        return all.isEmpty() ? Optional.empty() : Optional.of(all.getLast());
    }

    /** Deletes what a killed run left half-written. */
    void removeUnfinished() throws IOException {
        if (!Files.isDirectory(output)) {
            return;
        }
        List<Path> unfinished;
        try (Stream<Path> files = Files.list(output)) {
            unfinished = files.filter(f -> f.getFileName().toString().startsWith(UNFINISHED)).toList();
        }
        for (Path p : unfinished) {
            deleteTree(p);
        }
    }

    private List<Path> all() throws IOException {
        if (!Files.isDirectory(output)) {
            return List.of();
        }
        try (Stream<Path> files = Files.list(output)) {
            return files.filter(f -> NAME.matcher(f.getFileName().toString()).matches())
                    .sorted(Comparator.comparingInt(Checkpoints::step)).toList();
        }
    }

    private static int step(Path checkpoint) {
        var m = NAME.matcher(checkpoint.getFileName().toString());
        if (!m.matches()) {
            throw new IllegalArgumentException(checkpoint + " is not named checkpoint-STEP");
        }
        return Integer.parseInt(m.group(1));
    }

    /** The checkpoint of a step, which need not be there. */
    Path of(int step) {
        return output.resolve("checkpoint-" + step);
    }

    /** As below where evaluations decide nothing. */
    public Path save(Trainer trainer, Artifact artifact, int limit) throws IOException {
        return save(trainer, artifact, limit, Selection.State.NONE);
    }

    /**
     * Writes the checkpoint of the trainer's step and deletes the oldest beyond {@code limit} (0: keeps all), but never
     * the newest and never that of the best evaluation: with a limit of 1 these may be two.
     */
    public Path save(Trainer trainer, Artifact artifact, int limit, Selection.State selection) throws IOException {
        Path target = of(trainer.step());
        Path unfinished = output.resolve(UNFINISHED + trainer.step());
        deleteTree(unfinished);
        Files.createDirectories(unfinished);
        artifact.save(unfinished);
        writeState(trainer, unfinished.resolve(STATE));
        ObjectNode json = MAPPER.createObjectNode();
        json.put("step", trainer.step());
        if (selection.bestStep() > 0) {
            json.put(BEST_METRIC, selection.bestMetric()).put(BEST_STEP, selection.bestStep()).put(WAITED,
                    selection.waited());
        }
        identity.forEach(json.putObject("identity")::put);
        AtomicFile.write(unfinished.resolve(JSON), MAPPER.writerWithDefaultPrettyPrinter().writeValueAsBytes(json));
        deleteTree(target);
        Files.move(unfinished, target, StandardCopyOption.ATOMIC_MOVE);
        removeOldest(limit, of(selection.bestStep()));
        return target;
    }

    private void removeOldest(int limit, Path best) throws IOException {
        List<Path> all = all();
        int left = all.size();
        for (int i = 0; limit > 0 && i < all.size() - 1 && left > limit; i++) {
            if (!all.get(i).equals(best)) {
                deleteTree(all.get(i));
                left--;
            }
        }
    }

    private static void writeState(Trainer trainer, Path file) throws IOException {
        Tensor flat = trainer.parameters().flatParams();
        Backend backend = trainer.backend();
        Tensor host = Tensor.zeros(flat.dtype(), flat.shape());
        backend.download(flat, host);
        SafetensorsWriter writer = new SafetensorsWriter().add(PARAMETERS, host);
        PagedStates states = trainer.optimizer().states();
        for (int i = 0; i < states.names().size(); i++) {
            Tensor state = states.host(i);
            states.read(i, 0, state);
            writer.add(states.names().get(i), state);
        }
        writer.write(file);
    }

    /** Sets the parameters to a checkpoint's, and nothing else. */
    void loadParameters(Path checkpoint, Trainer trainer) throws IOException {
        try (Safetensors file = Safetensors.open(checkpoint.resolve(STATE))) {
            Tensor flat = trainer.parameters().flatParams();
            check(checkpoint, file, PARAMETERS, flat);
            trainer.backend().upload(file.tensor(PARAMETERS), flat);
        }
    }

    /**
     * Restores parameters, optimizer states and step; an error when the checkpoint belongs to another run.
     *
     * @return what evaluations had said by then
     */
    public Selection.State restore(Path checkpoint, Trainer trainer) throws IOException {
        JsonNode json = state(checkpoint.resolve(JSON));
        int step = count(checkpoint, json, "step");
        Selection.State selection = json.has(BEST_STEP) ? selection(checkpoint, json) : Selection.State.NONE;
        for (Map.Entry<String, String> e : identity.entrySet()) {
            String was = json.path("identity").path(e.getKey()).asText("(absent)");
            if (!was.equals(e.getValue())) {
                throw new TrainingException(checkpoint + " was written by a run with " + e.getKey() + " " + was
                        + ", this one has " + e.getValue() + ": use the same settings to resume, or another --output");
            }
        }
        ParameterStore parameters = trainer.parameters();
        try (Safetensors file = Safetensors.open(checkpoint.resolve(STATE))) {
            Tensor flat = parameters.flatParams();
            PagedStates states = trainer.optimizer().states();
            check(checkpoint, file, PARAMETERS, flat);
            for (int i = 0; i < states.names().size(); i++) {
                check(checkpoint, file, states.names().get(i), states.host(i));
            }
            trainer.backend().upload(file.tensor(PARAMETERS), flat);
            for (int i = 0; i < states.names().size(); i++) {
                states.write(i, 0, file.tensor(states.names().get(i)));
            }
        }
        trainer.resumeAt(step);
        return selection;
    }

    private static Selection.State selection(Path checkpoint, JsonNode json) {
        JsonNode metric = json.path(BEST_METRIC);
        // JSON has no number for what a run that diverged measures; it is written as a string.
        boolean special = metric.isTextual() && metric.textValue().matches("NaN|-?Infinity");
        if (!metric.isNumber() && !special) {
            throw damaged(checkpoint, BEST_METRIC, metric, "the best evaluation's number");
        }
        return new Selection.State(Double.parseDouble(metric.asText()), count(checkpoint, json, BEST_STEP),
                count(checkpoint, json, WAITED));
    }

    private static int count(Path checkpoint, JsonNode json, String name) {
        JsonNode n = json.path(name);
        if (!n.canConvertToInt() || !n.isIntegralNumber() || n.intValue() < 0) {
            throw damaged(checkpoint, name, n, "a whole number from 0 on");
        }
        return n.intValue();
    }

    private static TrainingException damaged(Path checkpoint, String name, JsonNode is, String expected) {
        return new TrainingException(checkpoint.resolve(JSON) + ": \"" + name + "\" is "
                + (is.isMissingNode() ? "missing" : is) + "; " + expected
                + " is expected: the checkpoint is damaged, resume from another one");
    }

    private static JsonNode state(Path file) throws IOException {
        try {
            return MAPPER.readTree(Files.readAllBytes(file));
        } catch (JsonProcessingException | CharConversionException e) {
            throw new TrainingException(file + ": not valid JSON: the checkpoint is damaged, resume from another one",
                    e);
        }
    }

    private static void check(Path checkpoint, Safetensors file, String name, Tensor ours) {
        if (!file.contains(name) || file.tensor(name).dtype() != ours.dtype()
                || file.tensor(name).size() != ours.size()) {
            throw new TrainingException(checkpoint + ": " + name + " is "
                    + (file.contains(name) ? file.tensor(name) : "missing") + ", this run's is " + ours);
        }
    }

    static void deleteTree(Path root) throws IOException {
        if (!Files.exists(root)) {
            return;
        }
        List<Path> all;
        try (Stream<Path> files = Files.walk(root)) {
            all = files.sorted(Comparator.reverseOrder()).toList();
        }
        for (Path p : all) {
            Files.delete(p);
        }
    }
}
