package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.TreeSet;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** A recorded 4-bit checkpoint: equal to our quantization of the base, to our rewriting of it, and run. */
final class CheckpointChecks {
    private final Session session;
    private final String name;
    private final Path directory;
    private final SafetensorsModel base;
    private final Safetensors recorded;
    private final RecordedBatch batch;

    CheckpointChecks(Session session, String name, Path directory, SafetensorsModel base, Safetensors recorded,
            RecordedBatch batch) {
        this.session = session;
        this.name = name;
        this.directory = directory;
        this.base = base;
        this.recorded = recorded;
        this.batch = batch;
    }

    /** Compares one weight of the checkpoint, or one tensor that is not quantized. */
    private interface PerTensor {
        Outcome compare(SafetensorsModel checkpoint, String tensor) throws IOException;
    }

    void all() {
        check("packed", this::packed, true);
        check("absmax", this::absmax, true);
        check("nested_absmax", this::nestedAbsmax, true);
        check("dense", (checkpoint, tensor) -> Compare.bits(base.tensor(tensor), checkpoint.tensor(tensor)), false);
        session.report().check(name + ".rewritten", this::rewritten);
        if (recorded.contains("nf4.logits")) {
            session.report().check(name + ".nf4.logits", () -> {
                try (SafetensorsModel checkpoint = SafetensorsModel.open(directory)) {
                    Runs runs = new Runs(session, DecoderLoader.QLORA.load(DecoderConfig.read(directory), checkpoint,
                            session.backend()));
                    return Outcome.atMost(Compare.largest(runs.logits(batch.batch(), Adapters.NONE),
                            batch.real(recorded.tensor("nf4.logits"))), ModelChecks.LOGITS);
                }
            });
        }
    }

    /** One check over all tensors of the base that the checkpoint holds quantized, or all others. */
    private void check(String part, PerTensor comparison, boolean quantized) {
        session.report().check(name + "." + part, () -> {
            long differing = 0;
            long total = 0;
            String first = "";
            try (SafetensorsModel checkpoint = SafetensorsModel.open(directory)) {
                for (String tensor : base.names()) {
                    if (Bnb4bit.contains(checkpoint, tensor) == quantized) {
                        Outcome outcome = comparison.compare(checkpoint, tensor);
                        total++;
                        if (!outcome.ok() && differing++ == 0) {
                            first = tensor + ": " + outcome.measured();
                        }
                    }
                }
            }
            return Outcome.equal(differing, total, first);
        });
    }

    private QuantizedTensor plain(SafetensorsModel checkpoint, String tensor) throws IOException {
        QuantConfig config = Bnb4bit.read(checkpoint, tensor).config();
        return Blockwise.quantize(session.stream(), session.device(base.tensor(tensor)),
                new QuantConfig(config.type(), config.blocksize(), false));
    }

    private Outcome packed(SafetensorsModel checkpoint, String tensor) throws IOException {
        return Compare.bits(session.host(plain(checkpoint, tensor).packed()),
                Bnb4bit.read(checkpoint, tensor).packed());
    }

    /** The second level of our constants with the recorded offset: codes, then their constants. */
    private Tensor[] second(SafetensorsModel checkpoint, String tensor) throws IOException {
        QuantizedTensor theirs = Bnb4bit.read(checkpoint, tensor);
        Tensor codes = session.poisoned(DType.U8, theirs.absmax().size());
        Tensor absmax2 = session.poisoned(DType.F32, theirs.absmax2().size());
        Blockwise.quantize8(session.stream(), plain(checkpoint, tensor).absmax(), session.device(theirs.offset()),
                DynamicMap.SIGNED, QuantConfig.NESTED_BLOCKSIZE, codes, absmax2);
        return new Tensor[]{session.host(codes), session.host(absmax2)};
    }

    private Outcome absmax(SafetensorsModel checkpoint, String tensor) throws IOException {
        QuantizedTensor theirs = Bnb4bit.read(checkpoint, tensor);
        return theirs.config().nested()
                ? FourBitChecks.nestedCodes(second(checkpoint, tensor)[0], theirs.absmax(), theirs.absmax2())
                : Compare.bits(session.host(plain(checkpoint, tensor).absmax()), theirs.absmax());
    }

    private Outcome nestedAbsmax(SafetensorsModel checkpoint, String tensor) throws IOException {
        QuantizedTensor theirs = Bnb4bit.read(checkpoint, tensor);
        return theirs.config().nested()
                ? Compare.bits(second(checkpoint, tensor)[1], theirs.absmax2())
                : Outcome.equal(0, 1, "");
    }

    /** Reads every tensor and writes it again: the same names, types, shapes and bytes. */
    private Outcome rewritten() throws IOException {
        Path file = Files.createTempFile("qlora4j-verify", ".safetensors");
        try (SafetensorsModel checkpoint = SafetensorsModel.open(directory)) {
            SafetensorsWriter writer = new SafetensorsWriter().metadata(checkpoint.metadata());
            for (String tensor : checkpoint.names()) {
                if (Bnb4bit.contains(checkpoint, tensor)) {
                    Bnb4bit.write(writer, tensor, Bnb4bit.read(checkpoint, tensor));
                } else if (!Bnb4bit.isPartOfWeight(tensor)) {
                    writer.add(tensor, checkpoint.tensor(tensor));
                }
            }
            writer.write(file);
            try (SafetensorsModel ours = SafetensorsModel.open(file)) {
                return sameTensors(ours, checkpoint);
            }
        } finally {
            Files.delete(file);
        }
    }

    private static Outcome sameTensors(SafetensorsModel ours, SafetensorsModel theirs) {
        TreeSet<String> names = new TreeSet<>(ours.names());
        names.addAll(theirs.names());
        List<String> different = names.stream().filter(n -> !ours.contains(n) || !theirs.contains(n)
                || ours.info(n).dtype() != theirs.info(n).dtype()
                || !ours.tensor(n).hasShape(theirs.info(n).shape())
                || ours.segment(n).mismatch(theirs.segment(n)) >= 0).toList();
        return Outcome.equal(different.size(), names.size(), different.isEmpty() ? "" : different.getFirst());
    }
}
