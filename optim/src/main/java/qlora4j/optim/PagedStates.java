package qlora4j.optim;

import java.util.List;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * The optimizer's states (exp_avg, exp_avg_sq) of one flat buffer of parameters, in pages of fixed size of which a
 * budget's worth stays on the device (Dettmers et al. 2023, QLoRA, section 3, "Paged Optimizers"; explicit copies in
 * place of unified memory). Page {@code i} holds, for elements {@code i * pageElements} and following, each state in
 * turn.
 *
 * <p>A step walks all pages in order, again and again. Under such a walk a least-recently-used cache never hits; the
 * best that any policy can do is to keep a fixed set of pages and pass the others through a few frames. So the first
 * pages are resident, as one <em>part</em> that is not cut into pages, and each other page is a part that goes through
 * a ring of {@link #RING} frames. The ring is used at any budget below 100 %, even one of 0 bytes.
 *
 * <p>Used by one thread at a time.
 */
public final class PagedStates implements AutoCloseable {
    /** A page's bytes over all states, unless the state is small. */
    public static final int PAGE_BYTES = 4 << 20;
    /** Pages of a small state are smaller, so that it has this many and a budget in per cent means something. */
    private static final int PAGES_AT_LEAST = 32;
    /** The frames that pages pass through: one in use, the others being written back and prefetched. */
    public static final int RING = 3;

    private final Backend backend;
    private final List<State> kinds;
    private final List<String> names;
    private final long size;
    private final int pageElements;
    private final long residentElements;
    private final long residentPages;
    private final Allocation resident;
    private final Allocation ring;
    private final Pager pager;
    private final Tensor[][] views;
    private long residentHits;

    /**
     * One of the states.
     *
     * @param name such as exp_avg
     * @param dtype of its items
     * @param per how many elements of the flat buffer share an item: 1, or a block's size for a block's constant
     */
    public record State(String name, DType dtype, int per) {
        private long bytes(long elements) {
            return dtype.bytes(Math.ceilDiv(elements, per));
        }
    }

    private static List<State> same(DType dtype, List<String> names) {
        return names.stream().map(n -> new State(n, dtype, 1)).toList();
    }

    private static long bytes(List<State> kinds, long elements) {
        return kinds.stream().mapToLong(k -> k.bytes(elements)).sum();
    }

    /**
     * Zeroed states, an item of {@code dtype} of each an element.
     *
     * @param size elements of the flat parameter buffer
     * @param names of the states, such as exp_avg and exp_avg_sq
     * @param residency how much may stay on the device
     * @param spill where the rest goes; may be null when everything is resident
     */
    public PagedStates(Backend backend, DType dtype, long size, List<String> names, Residency residency,
            PageStore.Factory spill) {
        this(backend, same(dtype, names), size, residency, spill);
    }

    /** Zeroed states of the kinds given. */
    public PagedStates(Backend backend, List<State> kinds, long size, Residency residency, PageStore.Factory spill) {
        this(backend, kinds, size, residency, spill,
                (int) Math.min(PAGE_BYTES, Math.max(1, bytes(kinds, size) / PAGES_AT_LEAST)));
    }

    PagedStates(Backend backend, DType dtype, long size, List<String> names, Residency residency,
            PageStore.Factory spill, int pageBytes) {
        this(backend, same(dtype, names), size, residency, spill, pageBytes);
    }

    /** As above with pages of about {@code pageBytes} bytes: rounded up to whole cache lines of every state. */
    private PagedStates(Backend backend, List<State> kinds, long size, Residency residency, PageStore.Factory spill,
            int pageBytes) {
        this.backend = backend;
        this.kinds = List.copyOf(kinds);
        this.size = size;
        this.names = kinds.stream().map(State::name).toList();
        int line = kinds.stream().mapToInt(k -> k.per * ArenaPlan.ALIGNMENT / k.dtype.bytes()).max().orElseThrow();
        pageElements = Math.toIntExact(Math.ceilDiv(pageBytes, bytes(kinds, line)) * line);
        int pages = Math.toIntExact(Math.ceilDiv(size, pageElements));
        long budget = residency.budget(totalBytes());
        boolean all = budget >= totalBytes();
        int frames = all ? 0 : Math.min(RING, Math.max(1, pages - 1));
        residentPages = all ? pages : Math.max(0, budget / pageBytes() - frames);
        residentElements = Math.min(size, residentPages * pageElements);
        if (!all && spill == null) {
            throw new IllegalArgumentException("--optim-resident keeps " + budget + " of " + totalBytes()
                    + " bytes of optimizer state: the rest needs a directory to spill to");
        }
        int streamed = (int) (pages - residentPages);
        resident = backend.allocate(Math.max(1, bytes(kinds, padded(residentElements))), MemoryUse.OPTIMIZER);
        ring = all ? null : backend.allocate((long) frames * pageBytes(), MemoryUse.OPTIMIZER);
        views = new Tensor[(residentPages > 0 ? 1 : 0) + streamed][];
        for (int part = 0; part < views.length; part++) {
            views[part] = views(part, frames);
        }
        boolean plan = backend.device().equals(Device.PLAN);
        pager = all || plan ? null : openPager(frames, streamed, spill);
    }

    private Pager openPager(int frames, int streamed, PageStore.Factory spill) {
        try {
            return new Pager(backend, ring.tensor(0, DType.U8, frames, pageBytes()), streamed,
                    spill.open(streamed, pageBytes()));
        } catch (RuntimeException e) {
            resident.close();
            ring.close();
            throw e;
        }
    }

    /** Resident elements up to a whole number of cache lines of every state. */
    private long padded(long elements) {
        long line = kinds.stream().mapToLong(k -> (long) k.per * ArenaPlan.ALIGNMENT / k.dtype.bytes()).max()
                .orElseThrow();
        return Math.ceilDiv(elements, line) * line;
    }

    private Tensor[] views(int part, int frames) {
        int page = page(part);
        Allocation memory = page < 0 ? resident : ring;
        long at = page < 0 ? 0 : (long) (page % frames) * pageBytes();
        long stride = page < 0 ? padded(residentElements) : pageElements;
        Tensor[] v = new Tensor[kinds.size()];
        for (int state = 0; state < v.length; state++) {
            State kind = kinds.get(state);
            v[state] = memory.tensor(at, kind.dtype, Math.ceilDiv(to(part) - from(part), (long) kind.per));
            at += kind.bytes(stride);
        }
        return v;
    }

    /** The page of the pager that a part is, or -1 for the resident part. */
    private int page(int part) {
        return residentPages > 0 ? part - 1 : part;
    }

    /** The names of the states, in order. */
    public List<String> names() {
        return names;
    }

    /** The number of parts that a walk goes through, in order. */
    public int parts() {
        return views.length;
    }

    /** The first element of a part. */
    public long from(int part) {
        return page(part) < 0 ? 0 : residentElements + (long) page(part) * pageElements;
    }

    /** The element after a part's last. */
    public long to(int part) {
        return page(part) < 0 ? residentElements : Math.min(size, from(part) + pageElements);
    }

    /** A zeroed host tensor for the items of a state over the whole flat buffer. */
    public Tensor host(int state) {
        State kind = kinds.get(state);
        return Tensor.zeros(kind.dtype, Math.ceilDiv(size, (long) kind.per));
    }

    /** The items of elements {@link #from} to {@link #to} of a state; valid between {@link #acquire} and {@link #release}. */
    public Tensor view(int part, int state) {
        return views[part][state];
    }

    /** Waits until a part is on the device. */
    public void acquire(int part) {
        if (page(part) < 0) {
            residentHits += residentPages;
        } else if (pager != null) {
            pager.acquire(page(part));
        }
    }

    /** Gives a part up; {@code changed} says whether it must be written back. */
    public void release(int part, boolean changed) {
        if (page(part) >= 0 && pager != null) {
            pager.release(page(part), changed);
        }
    }

    /** Copies items {@code from} and following of a state to a host tensor of its type. */
    public void read(int state, long from, Tensor out) {
        copy(state, from, out, false);
    }

    /** Sets items {@code from} and following of a state from a host tensor of its type. */
    public void write(int state, long from, Tensor in) {
        copy(state, from, in, true);
    }

    private void copy(int state, long from, Tensor host, boolean write) {
        State kind = kinds.get(state);
        long items = Math.ceilDiv(size, (long) kind.per);
        if (host.dtype() != kind.dtype || from < 0 || from + host.size() > items) {
            throw new IllegalArgumentException("elements " + from + " and following of " + kind.name + ", "
                    + kind.dtype + "[" + items + "], and the tensor " + host + " do not fit");
        }
        Tensor flat = host.view(host.size());
        long end = from + host.size();
        for (int part = partOf(from * kind.per); part < parts() && from(part) / kind.per < end; part++) {
            long first = from(part) / kind.per;
            long lo = Math.max(from, first);
            long n = Math.min(end, Math.ceilDiv(to(part), (long) kind.per)) - lo;
            acquire(part);
            Tensor device = view(part, state).slice(lo - first, n);
            if (write) {
                backend.upload(flat.slice(lo - from, n), device);
            } else {
                backend.download(device, flat.slice(lo - from, n));
            }
            release(part, write);
        }
    }

    private int partOf(long element) {
        if (element < residentElements) {
            return 0;
        }
        return (int) ((element - residentElements) / pageElements) + (residentPages > 0 ? 1 : 0);
    }

    /** Bytes of all states. */
    public long totalBytes() {
        return bytes(kinds, size);
    }

    /** Bytes held on the device. */
    public long residentBytes() {
        return bytes(kinds, residentElements) + (ring == null ? 0 : ring.bytes());
    }

    /** Bytes of one page over all states. */
    public int pageBytes() {
        return Math.toIntExact(bytes(kinds, pageElements));
    }

    /** What paging has cost so far; waits for write-backs that are pending. */
    public PagingStatistics statistics() {
        PagingStatistics s = pager == null ? new PagingStatistics(0, 0, 0, 0) : pager.statistics();
        return new PagingStatistics(s.bytesSpilled(), s.bytesLoaded(), s.hits() + residentHits, s.waits());
    }

    /** One line for people. */
    public String describe() {
        return residentBytes() + " of " + totalBytes() + " bytes of optimizer state resident"
                + (pager == null ? "" : ", the rest in pages of " + pageBytes() + " bytes in " + pager.describe());
    }

    /** Frees the frames and the spill file. */
    @Override
    public void close() {
        if (pager != null) {
            pager.close();
        }
        resident.close();
        if (ring != null) {
            ring.close();
        }
    }
}
