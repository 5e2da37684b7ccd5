package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.Tensor;

/**
 * A ring of page frames above a {@link PageStore}. Page {@code i} always uses frame {@code i mod frames}. While one
 * page is in use, a background thread writes the page before it back and fetches the next ones, in the order of a walk
 * that begins again at page 0 after the last; a page out of that order is fetched when asked for.
 *
 * <p>One thread moves all pages, first in, first out, and a frame's page is written back before the frame is filled
 * again: a page is never read while its write-back is pending. A page that was never written is zero. After a failure
 * every call throws it.
 */
final class Pager implements AutoCloseable {
    private static final long NONE = -1;

    /** Between {@link Pager#request} and the end of the transfer, a frame's fields belong to the pager's thread. */
    private static final class Frame {
        final Tensor memory;
        final MemorySegment staging;
        final ByteBuffer bytes;
        long holds = NONE;
        long wanted = NONE;
        boolean changed;
        boolean inUse;

        Frame(Tensor memory, MemorySegment staging) {
            this.memory = memory;
            this.staging = staging;
            this.bytes = (staging == null ? memory.data() : staging).asByteBuffer();
        }
    }

    private final HostCopies copies;
    private final PageStore store;
    private final long pages;
    private final Frame[] frames;
    private final boolean[] stored;
    private final Object lock = new Object();
    private final Frame[] queue;
    private int queueStart;
    private int queued;
    private boolean closed;
    private RuntimeException failure;
    private long bytesSpilled;
    private long bytesLoaded;
    private long hits;
    private long waits;
    private final Thread mover;

    /**
     * @param frames {@code [frames, pageBytes]} uint8 on the backend's device, fewer than {@code pages} or one
     * @param store owned by the pager from now on
     */
    Pager(Backend backend, Tensor frames, int pages, PageStore store) {
        this.store = store;
        this.pages = pages;
        this.stored = new boolean[pages];
        this.frames = new Frame[Math.toIntExact(frames.dim(0))];
        this.queue = new Frame[this.frames.length];
        copies = backend.device().isHost() ? null : backend.openHostCopies();
        MemorySegment staging = copies == null ? null : copies.hostMemory(frames.dim(1));
        for (int f = 0; f < this.frames.length; f++) {
            this.frames[f] = new Frame(frames.slice(f * frames.dim(1), frames.dim(1)), staging);
        }
        mover = Thread.ofPlatform().daemon().name("qlora4j-pager").start(this::move);
    }

    /** Waits until page {@code page} lies in its frame, and keeps it there until {@link #release}. */
    void acquire(int page) {
        Frame f = frames[page % frames.length];
        synchronized (lock) {
            if (f.inUse) {
                throw new IllegalStateException("page " + page + " is asked for while page " + f.holds
                        + " is in use in the same frame");
            }
            boolean waited = false;
            while (f.wanted != NONE || f.holds != page) {
                checkFailure();
                if (f.wanted == NONE) {
                    request(f, page);
                }
                waited = true;
                await();
            }
            checkFailure();
            f.inUse = true;
            if (waited) {
                waits++;
            } else {
                hits++;
            }
        }
    }

    /** Gives a page up; it is written back if it was changed, and its frame is filled with the walk's next page. */
    void release(int page, boolean changed) {
        Frame f = frames[page % frames.length];
        synchronized (lock) {
            if (!f.inUse || f.holds != page) {
                throw new IllegalStateException("page " + page + " is not in use");
            }
            f.inUse = false;
            f.changed |= changed;
            long next = page + frames.length;
            request(f, next < pages ? next : page % frames.length);
        }
    }

    private void request(Frame f, long page) {
        f.wanted = page;
        queue[(queueStart + queued) % queue.length] = f;
        queued++;
        lock.notifyAll();
    }

    private void await() {
        try {
            lock.wait();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("interrupted while waiting for a page of the optimizer's state", e);
        }
    }

    private void checkFailure() {
        if (failure != null) {
            throw failure;
        }
        if (closed) {
            throw new IllegalStateException("the optimizer's state is closed");
        }
    }

    private void move() {
        while (true) {
            Frame f;
            synchronized (lock) {
                while (queued == 0 && !closed) {
                    await();
                }
                if (closed) {
                    return;
                }
                f = queue[queueStart];
                queueStart = (queueStart + 1) % queue.length;
                queued--;
            }
            RuntimeException failed = null;
            try {
                transfer(f);
            } catch (RuntimeException e) {
                failed = e;
            } catch (Error e) {
                failed = new IllegalStateException("the optimizer's pages can no longer be moved", e);
            }
            synchronized (lock) {
                f.wanted = NONE;
                if (failed != null) {
                    failure = failed;
                }
                lock.notifyAll();
            }
        }
    }

    private void transfer(Frame f) {
        if (f.changed) {
            write(f);
            stored[(int) f.holds] = true;
            f.changed = false;
            count(f.bytes.capacity(), 0);
        }
        if (f.holds == f.wanted) {
            return;
        }
        f.holds = NONE;
        read(f, stored[(int) f.wanted]);
        f.holds = f.wanted;
    }

    private void write(Frame f) {
        MemorySegment direct = store.direct(f.holds);
        if (copies != null) {
            copies.toHost(f.memory, direct == null ? f.staging : direct);
        }
        if (direct == null) {
            store.write(f.holds, f.bytes.clear());
        }
    }

    private void read(Frame f, boolean known) {
        MemorySegment source = store.direct(f.wanted);
        if (source == null || !known) {
            source = f.staging == null ? f.memory.data() : f.staging;
            if (known) {
                store.read(f.wanted, f.bytes.clear());
            } else {
                source.fill((byte) 0);
            }
        }
        if (known) {
            count(0, f.bytes.capacity());
        }
        if (copies != null) {
            copies.toDevice(source, f.memory);
        }
    }

    private void count(long spilled, long loaded) {
        synchronized (lock) {
            bytesSpilled += spilled;
            bytesLoaded += loaded;
        }
    }

    /** What was moved so far; a write-back that is still pending is waited for. */
    PagingStatistics statistics() {
        synchronized (lock) {
            while (pending() && failure == null && !closed) {
                await();
            }
            return new PagingStatistics(bytesSpilled, bytesLoaded, hits, waits);
        }
    }

    private boolean pending() {
        for (Frame f : frames) {
            if (f.wanted != NONE) {
                return true;
            }
        }
        return false;
    }

    String describe() {
        return store.describe();
    }

    /** Stops the thread after the transfer under way and closes the store; the pages are lost. */
    @Override
    public void close() {
        synchronized (lock) {
            if (closed) {
                return;
            }
            closed = true;
            lock.notifyAll();
        }
        boolean interrupted = false;
        while (mover.isAlive()) {
            try {
                mover.join();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        store.close();
        if (copies != null) {
            copies.close();
        }
    }
}
