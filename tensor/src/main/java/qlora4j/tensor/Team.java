package qlora4j.tensor;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.locks.LockSupport;

/**
 * A fixed team of threads that share the tasks of one loop. The caller works too, so a team of one starts no thread.
 * Which thread runs a task never changes what is computed: tasks write disjoint results, in an order of their own.
 *
 * <p>Each thread has a run of neighbouring tasks of its own, in order, so that it reads on and on where they read
 * neighbouring memory, which the processor fetches ahead; then it takes what is left of the others'.
 *
 * <p>A loop costs about a microsecond to start when the team is warm. It ends when its tasks have ended: a thread that
 * has not taken one, because another process has its processor, is not waited for. Who waits pauses briefly, then gives
 * its processor away at every turn, to a thread of the team that may be queued for it, then parks.
 */
public final class Team implements AutoCloseable {
    /** Turns of waiting that only pause: some tens of microseconds, more than lies between two loops of a step. */
    private static final int PAUSES = 500;
    /** Turns after those that yield. */
    private static final int YIELDS = 100;
    private static final long PARK_NANOS = 50_000;
    /** Counters of two threads lie this many ints apart: more than a cache line, and the next that comes with it. */
    private static final int APART = 32;

    /** One task of a loop. */
    public interface Task {
        /**
         * Runs task {@code index}.
         *
         * @param worker which thread of the team runs it, 0 to size - 1: for per-thread scratch memory
         */
        void run(int index, int worker);
    }

    private final Worker[] workers;
    /**
     * Tasks of each thread's run that nobody has taken. Whoever takes one by counting down may read the loop's other
     * fields.
     */
    private final AtomicIntegerArray left;
    /** Loops so far: what waiting threads look at. */
    private volatile int loops;
    /** Tasks that have not ended. The loop's other fields change only when there are none. */
    private final AtomicInteger pending = new AtomicInteger();
    private volatile boolean closed;
    private volatile Throwable failure;
    /** The caller while it may be parked. */
    private volatile Thread waiting;
    private Task task;
    private int tasks;
    private boolean running;

    /** A thread of the team beside the caller. */
    private final class Worker {
        private final Thread thread;
        private volatile boolean parked;

        private Worker(int number) {
            thread = Thread.ofPlatform().daemon().name("qlora4j-team-" + number).start(() -> work(number));
        }

        private void work(int number) {
            int seen = 0;
            int turn = 0;
            while (!closed) {
                int loop = loops;
                if (loop != seen) {
                    seen = loop;
                    takeTasks(number);
                    turn = 0;
                } else if (!briefly(turn++)) {
                    parked = true;
                    // Whoever starts a loop, or closes, looks at the flag afterwards.
                    if (loops == seen && !closed) {
                        LockSupport.park(Team.this);
                    }
                    parked = false;
                }
            }
        }

        private void wake() {
            if (parked) {
                LockSupport.unpark(thread);
            }
        }
    }

    /** A team of {@code size} threads, the calling one included. */
    public Team(int size) {
        workers = new Worker[size - 1];
        left = new AtomicIntegerArray(size * APART);
        for (int i = 0; i < workers.length; i++) {
            workers[i] = new Worker(i + 1);
        }
    }

    public int size() {
        return workers.length + 1;
    }

    /** Runs tasks 0 to {@code count - 1} and returns when all have ended; a task's exception is thrown here. */
    public synchronized void run(int count, Task body) {
        if (running) {
            throw new IllegalStateException("a team's task must not start another loop on the same team");
        }
        if (count <= 1 || workers.length == 0) {
            for (int i = 0; i < count; i++) {
                body.run(i, 0);
            }
            return;
        }
        running = true;
        task = body;
        tasks = count;
        failure = null;
        pending.set(count);
        for (int i = 0; i < size(); i++) {
            left.set(i * APART, end(i) - end(i - 1));
        }
        loops++;
        for (int i = 0; i < Math.min(workers.length, count - 1); i++) {
            workers[i].wake();
        }
        takeTasks(0);
        for (int turn = 0; pending.get() != 0; turn++) {
            if (!briefly(turn)) {
                waiting = Thread.currentThread();
                if (pending.get() != 0) {
                    LockSupport.parkNanos(this, PARK_NANOS);
                }
                waiting = null;
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

    /** Waits for a turn without parking; false, at once, after many turns. */
    private static boolean briefly(int turn) {
        if (turn < PAUSES) {
            Thread.onSpinWait();
        } else if (turn < PAUSES + YIELDS) {
            Thread.yield();
        } else {
            return false;
        }
        return true;
    }

    /** Where the run of tasks of a thread ends. */
    private int end(int worker) {
        return (int) ((long) tasks * (worker + 1) / size());
    }

    private void takeTasks(int worker) {
        int ended = 0;
        for (int i = 0; i < size(); i++) {
            int of = (worker + i) % size();
            int counter = of * APART;
            for (int n = left.get(counter); n != 0; n = left.get(counter)) {
                if (left.compareAndSet(counter, n, n - 1)) {
                    ended++;
                    try {
                        task.run(end(of) - n, worker);
                    } catch (RuntimeException | Error e) {
                        failure = e;
                        ended += dropTasks();
                    }
                }
            }
        }
        if (ended != 0 && pending.addAndGet(-ended) == 0) {
            Thread caller = waiting;
            if (caller != null) {
                LockSupport.unpark(caller);
            }
        }
    }

    /** Takes all tasks that are left; how many. */
    private int dropTasks() {
        int dropped = 0;
        for (int i = 0; i < size(); i++) {
            dropped += left.getAndSet(i * APART, 0);
        }
        return dropped;
    }

    @Override
    public void close() {
        closed = true;
        for (Worker w : workers) {
            w.wake();
        }
    }
}
