package qlora4j.verify.vectors;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Tensor;

/**
 * A versioned folder of test vectors: {@code vectors.safetensors} with every operation's inputs ({@code NAME.in.X}) and
 * outputs ({@code NAME.Y}), {@code vectors.json} with the operations in order, their parameters and limits. The same
 * version of the project writes the same bytes everywhere.
 */
public final class VectorBundle {
    /** Of the layout and of the inputs; a new one where either changes. */
    public static final int VERSION = 1;
    /** The tensors. */
    public static final String TENSORS = "vectors.safetensors";
    /** What they are. */
    public static final String MANIFEST = "vectors.json";
    private static final String FORMAT = "qlora-vectors";
    private static final String INPUT = ".in.";
    private static final JsonMapper JSON = JsonMapper.builder().enable(SerializationFeature.INDENT_OUTPUT).build();

    private VectorBundle() {
    }

    /** Whether a folder looks like one. */
    public static boolean is(Path folder) {
        return Files.exists(folder.resolve(MANIFEST));
    }

    /** The full name of an operation's input. */
    static String input(Operation operation, String name) {
        return operation.name() + INPUT + name;
    }

    /** The full name of an operation's output. */
    static String output(Operation operation, String name) {
        return operation.name() + "." + name;
    }

    /**
     * Writes inputs and the scalar backend's outputs, and the manifest.
     *
     * @param folder made where it is missing
     * @param scalar the scalar backend, which is the reference
     */
    public static void write(Path folder, Backend scalar) throws IOException {
        if (!scalar.name().equals(Backend.SCALAR)) {
            throw new IllegalArgumentException("vectors are made by --backend scalar, not by " + scalar.name());
        }
        Files.createDirectories(folder);
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", FORMAT).metadata("version",
                Integer.toString(VERSION));
        ObjectNode manifest = JSON.createObjectNode().put("format", FORMAT).put("version", VERSION)
                .put("specification", "verify/SPEC.md").put("made_by", "qlora4j, scalar backend")
                .put("seed", Inputs.SEED);
        ArrayNode list = manifest.putArray("operations");
        for (Operation operation : Operations.inOrder()) {
            operation.inputs().forEach((name, t) -> writer.add(input(operation, name), t));
            Map<String, Tensor> outputs = operation.compute(scalar);
            ObjectNode node = list.addObject().put("name", operation.name()).put("section", operation.section());
            ObjectNode parameters = node.putObject("parameters");
            new TreeMap<>(operation.parameters()).forEach((name, value) -> parameters.set(name,
                    JSON.valueToTree(value)));
            ArrayNode inputs = node.putArray("inputs");
            operation.inputs().keySet().stream().sorted().forEach(name -> inputs.add(input(operation, name)));
            ArrayNode named = node.putArray("outputs");
            for (Operation.Output output : operation.outputs()) {
                writer.add(output(operation, output.name()), outputs.get(output.name()));
                named.addObject().put("name", output(operation, output.name())).put("limit", output.limit());
            }
        }
        writer.write(folder.resolve(TENSORS));
        AtomicFile.write(folder.resolve(MANIFEST), (JSON.writeValueAsString(manifest) + "\n").getBytes("UTF-8"));
    }

    /** Writes a backend's outputs alone, as another implementation would hand them in. */
    public static void dump(Path file, Backend backend) throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", FORMAT).metadata("made_by",
                "qlora4j, " + backend.name() + " backend");
        for (Operation operation : Operations.inOrder()) {
            operation.compute(backend).forEach((name, t) -> writer.add(output(operation, name), t));
        }
        writer.write(file);
    }

    /** Opens a bundle's tensors, once its manifest says that this version can judge by it. */
    static Safetensors open(Path folder) throws IOException {
        Path file = folder.resolve(MANIFEST);
        if (!Files.exists(file)) {
            throw new IOException(folder + ": there is no " + MANIFEST + "; --against takes a folder of test vectors,"
                    + " such as verify/vectors");
        }
        JsonNode manifest;
        try {
            manifest = JSON.readTree(Files.readAllBytes(file));
        } catch (JacksonException e) {
            throw new IOException(file + ": not valid JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new IOException(file + ": not valid JSON: not in UTF-8: " + e.getMessage(), e);
        }
        if (!manifest.path("format").asText().equals(FORMAT) || manifest.path("version").asInt() != VERSION) {
            throw new IOException(file + ": expected format " + FORMAT + " of version " + VERSION + ", found "
                    + manifest.path("format") + " of version " + manifest.path("version"));
        }
        return Safetensors.open(folder.resolve(TENSORS));
    }
}
