package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Changes of recorded models: of the tiny ones and of a real one. */
final class ModelPerturbations {
    private static final String STATE = ".quant_state.";

    private ModelPerturbations() {
    }

    /** The folders of a bundle that record something, itself included. */
    static List<Path> folders(Path bundle) throws IOException {
        List<Path> folders = new ArrayList<>(List.of(bundle));
        try (Stream<Path> files = Files.list(bundle)) {
            files.filter(Files::isDirectory).sorted().forEach(folders::add);
        }
        return folders;
    }

    /** What to do with a recorded tensor. */
    private interface Edit {
        void apply(SafetensorsEditor file, RecordedBatch batch, String key, Set<String> checks);
    }

    private static void edit(Path bundle, Set<String> checks, Edit tiny, Edit real) throws IOException {
        for (Path folder : folders(bundle)) {
            Edit edit = ModelChecks.isSupported(folder) ? tiny : RealModelChecks.describes(folder) ? real : null;
            if (edit == null) {
                continue;
            }
            Path file = folder.resolve(ModelChecks.EXPECTED);
            RecordedBatch batch;
            try (Safetensors recorded = Safetensors.open(file)) {
                batch = RecordedBatch.read(recorded);
            }
            Set<String> unsupported = AdapterChecks.unsupportedVariants(folder);
            SafetensorsEditor editor = new SafetensorsEditor(file);
            for (String key : editor.names()) {
                if (!ModelChecks.INPUTS.contains(key)
                        && unsupported.stream().noneMatch(v -> key.startsWith(v + "."))) {
                    edit.apply(editor, batch, folder.getFileName() + "." + key, checks);
                }
            }
            editor.save();
        }
    }

    private static String key(String check) {
        return check.substring(check.indexOf('.') + 1);
    }

    static void numbers(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks, ModelPerturbations::tiny, ModelPerturbations::real);
    }

    private static void tiny(SafetensorsEditor file, RecordedBatch batch, String check, Set<String> checks) {
        String key = key(check);
        Tensor t = file.tensor(key);
        if (key.endsWith(".greedy")) {
            file.lastBit(key, ModelChecks.GREEDY_PROMPT);
            checks.add(check);
        } else if (key.contains(".grad.")) {
            file.scale(key, 1 + SelfTest.LIMITS * AdapterChecks.GRADIENT);
            checks.add(check);
        } else if (key.endsWith(".losses")) {
            file.add(key, 0, SelfTest.LIMITS * AdapterChecks.FIRST_STEP);
            checks.add(AdapterChecks.firstStep(check));
        } else if (key.endsWith(".grad_norms")) {
            t.set(0, t.get(0) * (1 + SelfTest.LIMITS * AdapterChecks.FIRST_STEP));
            checks.add(AdapterChecks.firstStep(check));
        } else {
            boolean bf16 = key.equals("nf4_bf16.logits");
            file.add(key, batch.firstReal() * t.dim(-1),
                    SelfTest.LIMITS * (bf16 ? ModelChecks.BF16_LARGEST : ModelChecks.LOGITS));
            checks.add(check);
        }
    }

    private static void real(SafetensorsEditor file, RecordedBatch batch, String check, Set<String> checks) {
        String key = key(check);
        Tensor t = file.tensor(key);
        boolean trained = key.startsWith("trained.");
        switch (key.substring(key.lastIndexOf('.') + 1)) {
            case "nll" -> file.add(key, t.size() - 1,
                    SelfTest.LIMITS * (trained ? RealModelChecks.TRAINED_NLL : RealModelChecks.NLL));
            case "logits" -> file.add(key, t.size() - 1,
                    SelfTest.LIMITS * (trained ? RealModelChecks.TRAINED_LOGITS : RealModelChecks.LOGITS));
            case "losses" -> file.add(key, 0, SelfTest.LIMITS * RealModelChecks.FIRST_STEP);
            default -> t.set(0, t.get(0) * (1 + SelfTest.LIMITS * RealModelChecks.FIRST_STEP));
        }
        checks.add(key.startsWith("lora.") ? AdapterChecks.firstStep(check) : check);
    }

    static void laterSteps(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks, (file, _, check, names) -> later(file, check, AdapterChecks.LATER_STEPS, names),
                (file, _, check, names) -> later(file, check, RealModelChecks.LATER_STEPS, names));
    }

    private static void later(SafetensorsEditor file, String check, double limit, Set<String> checks) {
        String key = key(check);
        Tensor t = file.tensor(key);
        int last = Math.toIntExact(t.size() - 1);
        if (last == 0 || !key.endsWith(".losses") && !key.endsWith(".grad_norms")) {
            return;
        }
        double scale = key.endsWith(".losses") ? 1 : t.get(last);
        t.set(last, t.get(last) + SelfTest.LIMITS * limit * scale);
        checks.add(AdapterChecks.laterSteps(check, t.size()));
    }

    static void means(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks, (file, _, check, names) -> {
            if (key(check).equals("nf4_bf16.logits")) {
                Tensor t = file.tensor(key(check));
                for (long i = 0; i < t.size(); i++) {
                    t.set(i, t.get(i) + SelfTest.LIMITS * ModelChecks.BF16_MEAN);
                }
                names.add(check);
            }
        }, (_, _, _, _) -> {
        });
    }

    static void checkpoints(Path bundle, Set<String> checks) throws IOException {
        for (Path folder : folders(bundle)) {
            Path file = folder.resolve(ModelChecks.FOUR_BIT).resolve("model.safetensors");
            if (!ModelChecks.isSupported(folder) || !Files.exists(file)) {
                continue;
            }
            SafetensorsEditor editor = new SafetensorsEditor(file);
            String prefix = folder.getFileName() + "." + ModelChecks.FOUR_BIT + ".";
            for (String name : editor.names()) {
                if (name.contains(STATE)) {
                    offsetDigit(editor.tensor(name));
                    checks.add(prefix + "rewritten");
                } else if (name.endsWith(".nested_absmax") || name.endsWith(".absmax")) {
                    editor.lastBit(name, 0);
                    checks.add(prefix + name.substring(name.lastIndexOf('.') + 1));
                } else if (!Bnb4bit.isPartOfWeight(name)) {
                    editor.lastBit(name, 0);
                    checks.add(prefix + (editor.tensor(name).dtype() == DType.U8 ? "packed" : "dense"));
                }
            }
            editor.save();
        }
    }

    /** Changes the last digit of the JSON's last number, which is the offset. */
    private static void offsetDigit(Tensor json) {
        for (long i = json.size() - 1; i >= 0; i--) {
            int c = (int) json.get(i);
            if (c >= '0' && c <= '9') {
                json.set(i, c == '9' ? '8' : c + 1);
                return;
            }
        }
    }
}
