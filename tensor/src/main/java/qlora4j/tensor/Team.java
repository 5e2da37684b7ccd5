package qlora4j.tensor;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;

/**
 * A fixed team of threads that share the tasks of one loop. The caller works too, so a team of one starts no thread.
 * Which thread runs a task never changes what is computed: tasks write disjoint results, in an order of their own.
 *
 * <p>Waiting threads spin briefly, then park; a loop costs about a microsecond to start when the team is warm.
 */
public final class Team implements AutoCloseable {
    private static final int SPINS = 2000;

    /** One task of a loop. */
    public interface Task {
        /**
         * Runs task {@code index}.
         *
         * @param worker which thread of the team runs it, 0 to size - 1: for per-thread scratch memory
         */
        void run(int index, int worker);
    }

    private final Thread[] threads;
    private final AtomicInteger next = new AtomicInteger();
    private final AtomicInteger busy = new AtomicInteger();
    private volatile int epoch;
    private volatile boolean closed;
    private volatile Throwable failure;
    private Task task;
    private int tasks;
    private Thread caller;
    private boolean running;

    /** A team of {@code size} threads, the calling one included. */
    public Team(int size) {
        threads = new Thread[size - 1];
        for (int i = 0; i < threads.length; i++) {
            int worker = i + 1;
            threads[i] = Thread.ofPlatform().daemon().name("qlora4j-team-" + worker).start(() -> work(worker));
        }
    }

    public int size() {
        return threads.length + 1;
    }

    /** Runs tasks 0 to {@code count - 1} and returns when all have ended; a task's exception is thrown here. */
    public synchronized void run(int count, Task body) {
        if (running) {
            throw new IllegalStateException("a team's task must not start another loop on the same team");
        }
        if (count <= 1 || threads.length == 0) {
            for (int i = 0; i < count; i++) {
                body.run(i, 0);
            }
            return;
        }
        running = true;
        task = body;
        tasks = count;
        caller = Thread.currentThread();
        failure = null;
        next.set(0);
        busy.set(threads.length);
        epoch++;
        for (Thread t : threads) {
            LockSupport.unpark(t);
        }
        takeTasks(0);
        for (int spin = 0; busy.get() != 0; spin++) {
            if (spin < SPINS) {
                Thread.onSpinWait();
            } else {
                LockSupport.parkNanos(this, 50_000);
            }
        }
        running = false;
        task = null;
        Throwable f = failure;
        if (f instanceof RuntimeException e) {
            throw e;
        }
        if (f instanceof Error e) {
            throw e;
        }
    }

    private void takeTasks(int worker) {
        try {
            for (int i = next.getAndIncrement(); i < tasks; i = next.getAndIncrement()) {
                task.run(i, worker);
            }
        } catch (RuntimeException | Error e) {
            failure = e;
            next.set(tasks);
        }
    }

    private void work(int worker) {
        int seen = 0;
        while (true) {
            for (int spin = 0; epoch == seen; spin++) {
                if (closed) {
                    return;
                }
                if (spin < SPINS) {
                    Thread.onSpinWait();
                } else {
                    LockSupport.park(this);
                }
            }
            seen = epoch;
            takeTasks(worker);
            if (busy.decrementAndGet() == 0) {
                LockSupport.unpark(caller);
            }
        }
    }

    @Override
    public void close() {
        closed = true;
        for (Thread t : threads) {
            LockSupport.unpark(t);
        }
    }
}
