package qlora4j.cli;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/**
 * Gives the process its real standard error back.
 *
 * <p>The JVM prints "WARNING: Using incubator modules: jdk.incubator.vector" before any Java code of ours runs, and no
 * flag silences it. The launcher therefore starts the JVM with file descriptor 2 on a pipe to a filter that drops this
 * one line and passes every other, and with the real standard error on another descriptor, named by the system property
 * {@value #PROPERTY}. From {@link #restore} on, descriptor 2 is the real one for Java and native code alike: terminals
 * are seen as terminals, nothing is buffered, and the filter sees the end of its pipe and leaves.
 */
final class StandardError {

    /** Names the descriptor that holds the real standard error; absent when the JVM was not started by the launcher. */
    static final String PROPERTY = "qlora4j.stderrFd";

    private static final int STDERR = 2;

    private StandardError() {
    }

    /** Makes the descriptor that {@value #PROPERTY} names descriptor 2; does nothing where the property is absent. */
    static void restore() {
        Integer real = Integer.getInteger(PROPERTY);
        if (real == null) {
            return;
        }
        MethodHandle dup2 = libc("dup2", ValueLayout.JAVA_INT, ValueLayout.JAVA_INT);
        int got;
        try {
            got = (int) dup2.invokeExact((int) real, STDERR);
        } catch (Throwable e) {
            throw new IllegalStateException("dup2 could not be called", e);
        }
        if (got != STDERR) {
            throw new IllegalStateException("-D" + PROPERTY + "=" + real + " is not an open file descriptor");
        }
    }

    /** Whether standard error is a terminal; false where the system has no POSIX {@code isatty}. */
    static boolean isTerminal() {
        if (Linker.nativeLinker().defaultLookup().find("isatty").isEmpty()) {
            return false;
        }
        try {
            return (int) libc("isatty", ValueLayout.JAVA_INT).invokeExact(STDERR) == 1;
        } catch (Throwable e) {
            throw new IllegalStateException("isatty could not be called", e);
        }
    }

    /** A function of the C library that returns an int. */
    private static MethodHandle libc(String name, MemoryLayout... arguments) {
        Linker linker = Linker.nativeLinker();
        return linker.downcallHandle(linker.defaultLookup().findOrThrow(name),
                FunctionDescriptor.of(ValueLayout.JAVA_INT, arguments));
    }
}
