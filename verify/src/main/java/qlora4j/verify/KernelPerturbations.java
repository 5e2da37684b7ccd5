package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import qlora4j.blockwise.QuantType;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Changes of {@code nf4}, {@code fp4}, {@code blockwise8} and {@code optim}. */
final class KernelPerturbations {
    private KernelPerturbations() {
    }

    /** What to do with a tensor; says whether its check must fail now. */
    private interface Edit {
        boolean apply(SafetensorsEditor file, String name);
    }

    private static void edit(Path bundle, String stem, Set<String> checks, Edit edit) throws IOException {
        Path file = bundle.resolve(stem + ".safetensors");
        if (Files.exists(file)) {
            SafetensorsEditor editor = new SafetensorsEditor(file);
            for (String name : editor.names()) {
                if (edit.apply(editor, name)) {
                    checks.add(stem + "." + name);
                }
            }
            editor.save();
        }
    }

    private static void fourBit(Path bundle, Set<String> checks, Edit edit) throws IOException {
        for (QuantType type : QuantType.values()) {
            edit(bundle, type.toString(), checks, (file, name) -> !FourBitChecks.diverges(name)
                    && edit.apply(file, name));
        }
    }

    private static boolean lastBit(SafetensorsEditor file, String name, String... endings) {
        for (String ending : endings) {
            if (name.endsWith(ending)) {
                file.lastBit(name, file.tensor(name).size() - 1);
                return true;
            }
        }
        return false;
    }

    static void codes(Path bundle, Set<String> checks) throws IOException {
        // A second-level code means nothing where its constant is 0.
        fourBit(bundle, checks, (file, name) -> (!name.endsWith(".nested.absmax")
                || lastOf(file.tensor(name + "2")) != 0) && lastBit(file, name, ".packed", ".nested.absmax"));
        edit(bundle, EightBitChecks.FILE, checks, (file, name) -> lastBit(file, name, ".q"));
    }

    private static double lastOf(Tensor t) {
        return t.get(t.size() - 1);
    }

    static void constants(Path bundle, Set<String> checks) throws IOException {
        fourBit(bundle, checks, (file, name) -> !name.endsWith(".nested.absmax")
                && lastBit(file, name, ".absmax", ".absmax2", "codebook"));
        edit(bundle, EightBitChecks.FILE, checks, (file, name) -> lastBit(file, name, ".absmax")
                || EightBitChecks.isMap(name) && lastBit(file, name, ""));
    }

    static void values(Path bundle, Set<String> checks) throws IOException {
        fourBit(bundle, checks, (file, name) -> lastBit(file, name, ".dequant", ".nested.scales"));
        edit(bundle, EightBitChecks.FILE, checks, (file, name) -> lastBit(file, name, ".dequant"));
    }

    static void offsets(Path bundle, Set<String> checks) throws IOException {
        fourBit(bundle, checks, (file, name) -> {
            if (!name.endsWith(".nested.offset")) {
                return false;
            }
            file.scale(name, 1 + SelfTest.LIMITS * FourBitChecks.MEAN_LIMIT);
            return true;
        });
    }

    static void optimizers(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, OptimizerChecks.FILE, checks, (file, name) -> {
            if (!OptimizerChecks.isSupported(name)) {
                return false;
            }
            Tensor t = file.tensor(name);
            if (t.dtype() == DType.U8) {
                // Three times the share of codes that may differ.
                for (long i = 0; i < Math.ceil(SelfTest.LIMITS * (1 - OptimizerChecks.CODES) * t.size()); i++) {
                    file.lastBit(name, i);
                }
            } else if (name.contains(".qmap")) {
                file.lastBit(name, t.size() - 1);
            } else {
                file.add(name, t.size() - 1, SelfTest.LIMITS * OptimizerChecks.LIMIT);
            }
            return true;
        });
    }
}
