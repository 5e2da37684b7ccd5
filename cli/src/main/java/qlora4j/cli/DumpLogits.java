package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.verify.LogitsDump;

/** {@code qlora dump-logits}: writes logits for the scripts of {@code verify/interop}; not shown in the help. */
@Command(name = "dump-logits", hidden = true, sortOptions = false, description = {
        "Writes the float32 logits of given token ids to a safetensors file, for other implementations to compare with."})
final class DumpLogits implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, dense or 4-bit, or a model of the hub; it needs no"
                    + " tokenizer.")
    private Path model;

    @Option(names = "--adapter", paramLabel = "DIR|OWNER/NAME",
            description = "A PEFT adapter (default: the base alone).")
    private Path adapter;

    @Option(names = "--ids", required = true, split = ",", paramLabel = "ID", description = "Token ids: 1,5,7 ...")
    private int[] ids;

    @Option(names = "--output", required = true, paramLabel = "FILE", description = "The safetensors file to write.")
    private Path output;

    @Option(names = "--quantize", description = "Hold a dense model's linear layers in 4 bits.")
    private boolean quantize;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter err = spec.commandLine().getErr();
        Path base = HubModels.directory(model, err);
        Path over = adapter == null ? null : HubModels.directory(adapter, err);
        try (Backend opened = backend.open()) {
            LogitsDump.write(opened, base, over, quantize, ids, output);
        }
        spec.commandLine().getOut().println("logits of " + ids.length + " tokens: " + output);
        return 0;
    }
}
