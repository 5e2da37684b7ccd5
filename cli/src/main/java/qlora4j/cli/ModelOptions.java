package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.blockwise.QuantConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.tensor.Backend;

/** The model that writes text, in which type, and where. */
final class ModelOptions {
    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, dense or 4-bit, or a model of the hub.")
    private Path model;

    @Option(names = "--no-quantize", description = "Leave a dense model's layers dense.")
    private boolean noQuantize;

    @Mixin
    private ComputeOptions compute;

    @Mixin
    private BackendOptions backend;

    /** Opens the directory; the caller closes it. */
    ModelDirectory directory() throws IOException {
        return ModelDirectory.open(HubModels.directory(model, spec.commandLine().getErr()));
    }

    /** How its layers are held and what they compute in. */
    DecoderLoader loader() {
        return new DecoderLoader(noQuantize ? null : QuantConfig.QLORA, compute.dtype());
    }

    /** Opens the backend; the caller closes it. */
    Backend backend() {
        return backend.open();
    }
}
