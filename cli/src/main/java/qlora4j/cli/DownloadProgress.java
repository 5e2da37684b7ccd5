package qlora4j.cli;

import java.io.PrintWriter;
import java.time.Duration;
import java.util.Locale;
import me.tongfei.progressbar.DelegatingProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;
import qlora4j.hub.Hub;

/** How far downloads are: a bar for each file where standard error is a terminal, else a line now and then. */
final class DownloadProgress implements Hub.Listener, AutoCloseable {
    private static final double MB = 1e6;
    private static final long EVERY_NANOS = 10_000_000_000L;
    private static final int UPDATE_MILLIS = 200;
    private static final int WIDTH = 100;

    private final PrintWriter err;
    private final boolean terminal = StandardError.isTerminal();
    private ProgressBar bar;
    private long start;
    private long first;
    private long printed;

    /** Prints lines to {@code err}. */
    DownloadProgress(PrintWriter err) {
        this.err = err;
    }

    @Override
    public void started(String file, long done, long size) {
        start = System.nanoTime();
        printed = start;
        first = done;
        if (done > 0) {
            line(String.format(Locale.ROOT, "%s: going on after %.1f MB", file, done / MB));
        }
        if (terminal) {
            bar = new ProgressBarBuilder().setTaskName(file).setInitialMax(size).startsFrom(done, Duration.ZERO)
                    .setUnit(" MB", (long) MB).setStyle(ProgressBarStyle.ASCII).showSpeed()
                    .setUpdateIntervalMillis(UPDATE_MILLIS)
                    .setConsumer(new DelegatingProgressBarConsumer(DownloadProgress::draw, WIDTH)).build();
        }
    }

    private static void draw(String line) {
        System.err.print("\r" + line);
        System.err.flush();
    }

    @Override
    public void progress(String file, long done, long size) {
        if (bar != null) {
            bar.stepTo(done);
        } else if (!terminal && System.nanoTime() - printed > EVERY_NANOS) {
            printed = System.nanoTime();
            double rate = Math.max(1, done - first) / seconds();
            line(String.format(Locale.ROOT, "%s: %.1f of %.1f MB, %.1f MB/s%s", file, done / MB, size / MB, rate / MB,
                    size < 0 ? "" : String.format(Locale.ROOT, ", %.0f s left", (size - done) / rate)));
        }
    }

    private double seconds() {
        return Math.max(1e-3, (System.nanoTime() - start) / 1e9);
    }

    @Override
    public void finished(String file, long size) {
        close();
        line(size < MB ? String.format(Locale.ROOT, "%s: %,d bytes", file, size)
                : String.format(Locale.ROOT, "%s: %.1f MB, %.1f MB/s", file, size / MB,
                        Math.max(0, size - first) / MB / seconds()));
    }

    private void line(String text) {
        err.println(text);
        err.flush();
    }

    /** Ends a bar that is still there. */
    @Override
    public void close() {
        if (bar != null) {
            bar.close();
            bar = null;
            System.err.println();
        }
    }
}
