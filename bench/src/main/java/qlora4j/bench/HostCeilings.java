package qlora4j.bench;

import java.lang.foreign.MemorySegment;
import java.util.Locale;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Team;

/**
 * The CPU's ceilings, of one thread and of all threads of the backend: memory read and copied in arrays larger than
 * most caches, fused multiply-adds in registers. The best of several runs counts.
 */
final class HostCeilings {
    private static final int ROUNDS = 2_000_000;
    /** Pieces a thread works on, so that no thread waits for a slow one. */
    private static final int PIECES = 8;

    private static volatile float sink;

    private HostCeilings() {
    }

    static Ceilings measure(Backend backend, double seconds, long bytes) {
        Ceilings.Builder out = new Ceilings.Builder();
        Team all = ((CpuBackend) backend).team();
        double[] best = new double[3];
        try (Held held = new Held(backend); Team one = new Team(1)) {
            MemorySegment from = held.tensor(MemoryUse.WORKSPACE, DType.U8, bytes).data();
            MemorySegment to = held.tensor(MemoryUse.WORKSPACE, DType.U8, bytes).data();
            from.fill((byte) 1);
            to.fill((byte) 1);
            for (Team team : all.size() == 1 ? new Team[]{all} : new Team[]{one, all}) {
                best[0] = copy(out, team, from, to, seconds);
                if (Backends.vectorModulePresent()) {
                    best[1] = read(out, team, from, seconds);
                    best[2] = multiplyAdd(out, team, seconds);
                }
            }
        }
        return new Ceilings(best[0], best[1], best[2], out.figures());
    }

    private static String threads(Team team) {
        return team.size() + (team.size() == 1 ? " thread" : " threads");
    }

    private static double copy(Ceilings.Builder out, Team team, MemorySegment from, MemorySegment to, double seconds) {
        int n = team.size() * PIECES;
        Timing t = Timing.of(() -> team.run(n, (i, _) -> piece(to, i, n).copyFrom(piece(from, i, n))), () -> {
        }, seconds / 2);
        return out.add("ceiling.copy", "copy memory, " + threads(team), team.size(), t,
                2.0 * from.byteSize(), "GB/s", 1e9);
    }

    private static double read(Ceilings.Builder out, Team team, MemorySegment from, double seconds) {
        int n = team.size() * PIECES;
        Timing t = Timing.of(() -> team.run(n, (i, _) -> sink = VectorProbe.read(piece(from, i, n))), () -> {
        }, seconds / 2);
        return out.add("ceiling.read", "read memory, " + threads(team), team.size(), t,
                from.byteSize(), "GB/s", 1e9);
    }

    private static double multiplyAdd(Ceilings.Builder out, Team team, double seconds) {
        int n = team.size();
        Timing t = Timing.of(() -> team.run(n, (i, _) -> sink = VectorProbe.multiplyAdd(ROUNDS, 0.5f)), () -> {
        }, seconds / 2);
        return out.add("ceiling.flops", String.format(Locale.ROOT, "fused multiply-add, %s, %d-bit vectors",
                threads(team), Backends.vectorBits()), n, t, n * VectorProbe.operations(ROUNDS), "GFLOP/s", 1e9);
    }

    /** Piece {@code i} of {@code n}, cut at multiples of 4 KiB. */
    private static MemorySegment piece(MemorySegment all, int i, int n) {
        long pages = all.byteSize() >> 12;
        long from = pages * i / n << 12;
        return all.asSlice(from, (pages * (i + 1) / n << 12) - from);
    }
}
