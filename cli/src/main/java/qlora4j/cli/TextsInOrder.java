package qlora4j.cli;

import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import qlora4j.model.CausalLm;

/** Prints the texts of a batch one below the other: the first one that has not ended as it comes, then the next. */
final class TextsInOrder implements CausalLm.RowText {
    private final PrintWriter out;
    private final List<String> titles;
    private final List<StringBuilder> waiting = new ArrayList<>();
    private final boolean[] ended;
    private int current;

    TextsInOrder(PrintWriter out, List<String> titles) {
        this.out = out;
        this.titles = titles;
        titles.forEach(_ -> waiting.add(new StringBuilder()));
        ended = new boolean[titles.size()];
        begin();
    }

    private void begin() {
        if (current < titles.size()) {
            out.println("[" + titles.get(current) + "]");
            out.print(waiting.get(current));
        }
        out.flush();
    }

    @Override
    public void text(int row, String piece) {
        if (row == current) {
            out.print(piece);
            out.flush();
        } else {
            waiting.get(row).append(piece);
        }
    }

    @Override
    public void ended(int row) {
        ended[row] = true;
        while (current < titles.size() && ended[current]) {
            out.println();
            current++;
            begin();
        }
    }
}
