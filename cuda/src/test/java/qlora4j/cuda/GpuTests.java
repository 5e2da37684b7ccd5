package qlora4j.cuda;

import static org.junit.platform.engine.discovery.DiscoverySelectors.selectPackage;

import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import jcuda.driver.JCudaDriver;
import org.junit.platform.engine.Filter;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.ClassNameFilter;
import org.junit.platform.launcher.TagFilter;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import org.junit.platform.launcher.listeners.TestExecutionSummary;

/**
 * Runs the tests tagged gpu without Maven: {@code cuda/gpu-test} calls it. Argument: a regular expression that the names
 * of the test classes match, or nothing for all. The last line says how many passed, failed and were left out, each of
 * which has a line that says why; the exit code is 0 when none failed and some ran.
 */
final class GpuTests {
    private GpuTests() {
    }

    public static void main(String[] arguments) {
        List<Filter<?>> filters = new ArrayList<>(List.of(TagFilter.includeTags("gpu")));
        int[] gpus = new int[1];
        if (CudaDriver.unavailable().isEmpty()) {
            JCudaDriver.cuDeviceGetCount(gpus);
        }
        if (gpus[0] < 2) {
            filters.add(TagFilter.excludeTags("gpus"));
            System.out.println("not run: tests that need two GPUs; there is " + gpus[0]);
        }
        if (arguments.length > 0) {
            filters.add(ClassNameFilter.includeClassNamePatterns(arguments[0]));
        }
        Progress progress = new Progress();
        SummaryGeneratingListener summary = new SummaryGeneratingListener();
        LauncherFactory.create().execute(
                LauncherDiscoveryRequestBuilder.request().selectors(selectPackage(GpuTests.class.getPackageName()))
                        .filters(filters.toArray(Filter[]::new))
                        .configurationParameter("jqwik.database", "").build(),
                summary, progress);
        TestExecutionSummary s = summary.getSummary();
        PrintWriter out = new PrintWriter(System.out, true);
        s.getFailures().forEach(f -> {
            out.println("FAILED " + f.getTestIdentifier().getLegacyReportingName() + ": " + f.getException());
            java.util.Arrays.stream(f.getException().getStackTrace())
                    .filter(e -> e.getClassName().startsWith("qlora4j")).limit(6).forEach(e -> out.println("    " + e));
        });
        long failed = s.getTotalFailureCount();
        out.printf("gpu tests: %d passed, %d failed, %d left out, %.1f s%n", s.getTestsSucceededCount(), failed,
                progress.leftOut, (s.getTimeFinished() - s.getTimeStarted()) / 1e3);
        System.exit(failed == 0 && s.getTestsSucceededCount() > 0 ? 0 : 1);
    }

    /** A line for each class, with its time: where a run hangs can be seen. Another for what this GPU cannot run. */
    private static final class Progress implements TestExecutionListener {
        private long since;
        private int leftOut;

        @Override
        public void executionStarted(TestIdentifier test) {
            if (test.getType().isContainer() && test.getLegacyReportingName().endsWith("Test")) {
                since = System.nanoTime();
                System.out.println(test.getLegacyReportingName());
            }
        }

        @Override
        public void executionSkipped(TestIdentifier test, String reason) {
            leftOut(test, reason);
        }

        /** A class that is left out counts as one. */
        private void leftOut(TestIdentifier test, String reason) {
            leftOut++;
            System.out.println("left out: " + test.getLegacyReportingName() + ": " + reason);
        }

        @Override
        public void executionFinished(TestIdentifier test, TestExecutionResult result) {
            if (result.getStatus() == TestExecutionResult.Status.ABORTED) {
                leftOut(test, result.getThrowable().map(Throwable::getMessage).orElse("no reason given"));
            }
            if (test.getType().isContainer() && test.getLegacyReportingName().endsWith("Test")) {
                System.out.printf("    %.1f s%n", (System.nanoTime() - since) / 1e9);
            }
        }
    }
}
