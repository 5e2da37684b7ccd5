package qlora4j.verify.numerics;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Tensor;

/** No backend exceeds its budgets, at any width of vectors, and the page says the same budgets. */
@Tag("lanes")
class NumericsTest {
    private static final Path PAGE = Path.of("..", "docs", "numerics.md");

    @ParameterizedTest
    @ValueSource(strings = {Backend.SCALAR, Backend.CPU})
    void everyBudgetIsKept(String name) {
        try (Backend backend = Backends.open(name)) {
            Map<Result, Double> measured = Numerics.measure(backend);
            assertThat(measured).containsOnlyKeys(Result.values());
            measured.forEach((result, error) -> assertThat(error).as("%s on %s", result, backend.describe())
                    .isLessThanOrEqualTo(result.budget(name)));
        }
    }

    @Test
    void thePageHasTheBudgetsAndKeepsThem() throws IOException {
        Map<String, String> cells = NumericsPage.cells(Files.readString(PAGE));
        for (Result r : Result.values()) {
            assertThat(cells.get(NumericsPage.key(r, "budgets"))).as("%s: run verify/numerics", r)
                    .isEqualTo(NumericsPage.budgets(r));
            for (String column : NumericsPage.COLUMNS) {
                String cell = cells.get(NumericsPage.key(r, column));
                double budget = r.budget(column.split(" ")[0]);
                if (!column.equals(Backend.CUDA) || !cell.equals("-") && !Double.isNaN(budget)) {
                    assertThat(Double.parseDouble(cell)).as("%s, %s", r, column)
                            .isLessThanOrEqualTo(budget);
                }
            }
        }
    }

    @Test
    void anErrorIsInUnitsOfTheMagnitudeAndANanIsInfinite() {
        Tensor exact = Tensor.of(new double[]{1, 0}, 2);
        Tensor magnitude = Tensor.of(new double[]{1, 4}, 2);
        assertThat(Numerics.error(Tensor.of(new float[]{Math.nextUp(1f), 0}, 2), exact, magnitude)).isEqualTo(1);
        assertThat(Numerics.error(Tensor.of(new float[]{1, Math.ulp(4f) * 3}, 2), exact, magnitude)).isEqualTo(3);
        assertThat(Numerics.error(Tensor.of(new float[]{Float.NaN, 0}, 2), exact, magnitude)).isInfinite();
    }
}
