package qlora4j.verify.vectors;

import java.util.ArrayList;
import java.util.List;
import qlora4j.optim.AdamHyper;

/** All operations in the order of the data's flow: what comes first can spoil what comes later. */
final class Operations {
    private Operations() {
    }

    static List<Operation> inOrder() {
        List<Operation> all = new ArrayList<>();
        all.add(new CodebookOperation());
        all.addAll(QuantizeOperation.cases());
        all.add(new EmbeddingOperation());
        all.add(new NormOperation());
        all.add(new LinearOperation(false));
        all.add(new LinearOperation(true));
        all.add(new DoraOperation());
        all.add(new RopeOperation(false));
        all.add(new RopeOperation(true));
        all.add(new AttentionOperation(false));
        all.add(new AttentionOperation(true));
        all.add(new SwigluOperation());
        all.add(new LossOperation());
        all.add(new AdamOperation(AdamHyper.Formula.TORCH));
        all.add(new AdamOperation(AdamHyper.Formula.BITSANDBYTES));
        all.add(new EightBitAdamOperation());
        all.add(new TrainOperation());
        return all;
    }
}
