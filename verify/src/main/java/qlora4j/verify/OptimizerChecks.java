package qlora4j.verify;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.blockwise.DynamicMap;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamHyper.Formula;
import qlora4j.optim.AdamW;
import qlora4j.optim.Residency;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Tensor;

/** Parameters and states of {@code optim.safetensors}: the recorded gradients through our optimizers. */
final class OptimizerChecks {
    /** About eight float32 roundings of a parameter of magnitude 1. */
    static final double LIMIT = 1e-6;

    static final String FILE = "optim";
    private static final String GROUP = FILE + ".";
    private static final Pattern RECORD = Pattern.compile("(\\w+)\\.(\\w+)\\.params");
    /** The steps after which parameters are recorded. */
    private static final List<Integer> RECORDED = List.of(1, 6, 12);
    /** The share of 8-bit codes that must be equal: bitsandbytes divides approximately. */
    static final double CODES = 0.999;
    private static final String EIGHT_BIT = "bnb_adamw8";
    private static final Map<String, Formula> FORMULAS = Map.of("torch_adamw", Formula.TORCH, "bnb_adamw32",
            Formula.BITSANDBYTES, EIGHT_BIT, Formula.BITSANDBYTES);
    /** The states in our order, by the names under which they are recorded. */
    private static final Map<String, Integer> ORDER = Map.of("exp_avg", 0, "exp_avg_sq", 1, "state1", 0, "state2", 1,
            "absmax1", 2, "absmax2", 3);
    private static final Map<String, DynamicMap> MAPS = Map.of("qmap1", DynamicMap.SIGNED, "qmap2",
            DynamicMap.UNSIGNED);
    private static final String PARAMETER = "p";

    private final Session session;
    private final Safetensors recorded;
    private final JsonNode hypers;

    private OptimizerChecks(Session session, Safetensors recorded, JsonNode hypers) {
        this.session = session;
        this.recorded = recorded;
        this.hypers = hypers;
    }

    static void run(Session session, Path file) throws IOException {
        try (Safetensors recorded = Safetensors.open(file)) {
            String hyper = recorded.metadata().get("hyper");
            if (hyper == null) {
                throw new IOException(file + ": its metadata has no \"hyper\", the hyper-parameters of each set");
            }
            OptimizerChecks checks = new OptimizerChecks(session, recorded,
                    JsonRecord.parse(file, hyper.getBytes(StandardCharsets.UTF_8)));
            for (String key : new TreeSet<>(recorded.names())) {
                Matcher m = RECORD.matcher(key);
                if (m.matches()) {
                    checks.one(m.group(1), m.group(2));
                }
            }
        }
    }

    /** Whether a record is a result of an optimizer that this version has. */
    static boolean isSupported(String key) {
        return FORMULAS.keySet().stream().anyMatch(o -> key.contains("." + o + "."));
    }

    private void one(String set, String optimizer) {
        String name = set + "." + optimizer;
        List<String> states = new TreeSet<>(recorded.names()).stream().filter(k -> k.startsWith(name + ".state."))
                .toList();
        Formula formula = FORMULAS.get(optimizer);
        if (formula == null) {
            String why = "optimizer " + optimizer;
            session.report().unsupported(GROUP + name + ".params", why);
            states.forEach(k -> session.report().unsupported(GROUP + k, why));
            return;
        }
        Lazy<List<Tensor>> ours = new Lazy<>(() -> steps(set, formula, optimizer.equals(EIGHT_BIT)));
        session.report().check(GROUP + name + ".params", () -> {
            Tensor params = recorded.tensor(name + ".params");
            double worst = params.dim(0) == RECORDED.size() ? 0 : Double.POSITIVE_INFINITY;
            for (int i = 0; i < RECORDED.size(); i++) {
                worst = Math.max(worst, Compare.largest(ours.get().get(i), params.rows(i, i + 1)));
            }
            return Outcome.atMost(worst, LIMIT);
        });
        for (String key : states) {
            String state = key.substring(key.lastIndexOf('.') + 1);
            session.report().check(GROUP + key, () -> state(state, ours, recorded.tensor(key)));
        }
    }

    private static Outcome state(String state, Lazy<List<Tensor>> ours, Tensor expected) throws IOException {
        if (MAPS.containsKey(state)) {
            float[] map = MAPS.get(state).table();
            return Compare.bits(Tensor.of(map, map.length), expected);
        }
        if (!ORDER.containsKey(state) || RECORDED.size() + ORDER.get(state) >= ours.get().size()) {
            return Outcome.fail("a state that this optimizer does not have");
        }
        Tensor own = ours.get().get(RECORDED.size() + ORDER.get(state));
        return own.dtype() == DType.U8 ? codes(own, expected) : Outcome.atMost(Compare.largest(own, expected), LIMIT);
    }

    /** Codes of 8 bits: at least {@link #CODES} of them equal. */
    private static Outcome codes(Tensor ours, Tensor expected) {
        if (expected.dtype() != DType.U8 || expected.size() != ours.size()) {
            return Outcome.fail("recorded as " + expected + ", ours is " + ours);
        }
        long equal = 0;
        for (long i = 0; i < ours.size(); i++) {
            equal += ours.get(i) == expected.get(i) ? 1 : 0;
        }
        return new Outcome(equal >= CODES * ours.size(), equal + " of " + ours.size() + " equal", "99.9 %");
    }

    /** Parameters after each recorded step, then the final states. */
    private List<Tensor> steps(String set, Formula formula, boolean eightBit) throws IOException {
        JsonNode h = hypers.get(set);
        AdamHyper hyper = new AdamHyper(formula, h.get("betas").get(0).doubleValue(),
                h.get("betas").get(1).doubleValue(), h.get("eps").doubleValue(), h.get("weight_decay").doubleValue(),
                1, eightBit);
        Tensor grads = recorded.tensor(set + ".grads");
        List<Tensor> results = new ArrayList<>();
        try (ParameterStore store = ParameterStore.builder().add(PARAMETER, grads.cols()).build(session.backend());
                AdamW adam = new AdamW(session.backend(), store, Map.of(ParameterStore.DEFAULT_GROUP, hyper),
                        Residency.ALL, null)) {
            session.backend().upload(recorded.tensor(set + ".p0"), store.param(PARAMETER));
            for (int step = 1; step <= RECORDED.getLast(); step++) {
                session.backend().upload(grads.rows(step - 1, step).view(grads.cols()), store.grad(PARAMETER));
                adam.prepare(h.get("lr").doubleValue(), 1);
                adam.clip(session.stream(), Double.POSITIVE_INFINITY);
                adam.update(session.stream());
                if (RECORDED.contains(step)) {
                    Tensor params = Tensor.zeros(DType.F32, grads.cols());
                    session.backend().download(store.param(PARAMETER), params);
                    results.add(params);
                }
            }
            for (int state = 0; state < adam.states().names().size(); state++) {
                Tensor all = adam.states().host(state);
                adam.states().read(state, 0, all);
                // The flat buffer is padded behind the parameter.
                long items = state < AdamW.STATES.size() ? grads.cols() : all.size();
                results.add(all.slice(0, items));
            }
        }
        return results;
    }
}
