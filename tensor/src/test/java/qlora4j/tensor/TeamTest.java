package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.locks.LockSupport;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(60)
class TeamTest {
    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 8})
    void everyTaskOfEveryLoopRunsOnce(int size) {
        try (Team team = new Team(size)) {
            for (int loop = 0; loop < 3000; loop++) {
                int count = loop * 7 % 23;
                AtomicIntegerArray runs = new AtomicIntegerArray(23);
                AtomicInteger wrongWorker = new AtomicInteger();
                team.run(count, (task, worker) -> {
                    runs.incrementAndGet(task);
                    if (worker < 0 || worker >= size) {
                        wrongWorker.incrementAndGet();
                    }
                });
                for (int i = 0; i < 23; i++) {
                    assertThat(runs.get(i)).as("loop %s, task %s of %s", loop, i, count).isEqualTo(i < count ? 1 : 0);
                }
                assertThat(wrongWorker).hasValue(0);
                if (loop % 1000 == 999) {
                    LockSupport.parkNanos(2_000_000); // the team parks
                }
            }
        }
    }

    @Test
    void noTwoTasksShareAWorkerAtATime() {
        int size = 4;
        try (Team team = new Team(size)) {
            AtomicIntegerArray inside = new AtomicIntegerArray(size);
            AtomicInteger shared = new AtomicInteger();
            for (int loop = 0; loop < 500; loop++) {
                team.run(16, (task, worker) -> {
                    if (inside.incrementAndGet(worker) != 1) {
                        shared.incrementAndGet();
                    }
                    Thread.onSpinWait();
                    inside.decrementAndGet(worker);
                });
            }
            assertThat(shared).hasValue(0);
        }
    }

    /** Two tasks that wait for each other end only where another thread takes one, awake or parked. */
    @Test
    void anotherThreadTakesPart() {
        try (Team team = new Team(2)) {
            for (int loop = 0; loop < 20; loop++) {
                CountDownLatch both = new CountDownLatch(2);
                AtomicInteger met = new AtomicInteger();
                team.run(2, (task, worker) -> {
                    both.countDown();
                    if (await(both)) {
                        met.incrementAndGet();
                    }
                });
                assertThat(met).hasValue(2);
                if (loop % 5 == 4) {
                    LockSupport.parkNanos(2_000_000);
                }
            }
        }
    }

    /** The caller parks while it waits for a task of another thread's. */
    @Test
    void aLoopEndsAfterItsLongestTask() {
        try (Team team = new Team(2)) {
            AtomicInteger ended = new AtomicInteger();
            CountDownLatch both = new CountDownLatch(2);
            team.run(2, (task, worker) -> {
                both.countDown();
                await(both);
                if (worker == 1) {
                    LockSupport.parkNanos(20_000_000);
                }
                ended.incrementAndGet();
            });
            assertThat(ended).hasValue(2);
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 4})
    void aTasksExceptionIsThrownAndTheTeamGoesOn(int size) {
        try (Team team = new Team(size)) {
            for (int loop = 0; loop < 200; loop++) {
                assertThatThrownBy(() -> team.run(100, (task, worker) -> {
                    if (task == 3) {
                        throw new IllegalStateException("task 3");
                    }
                })).isInstanceOf(IllegalStateException.class).hasMessage("task 3");
                AtomicInteger runs = new AtomicInteger();
                team.run(10, (task, worker) -> runs.incrementAndGet());
                assertThat(runs).hasValue(10);
            }
        }
    }

    @Test
    void aLoopInsideOfALoopIsRefused() {
        try (Team team = new Team(2)) {
            CountDownLatch both = new CountDownLatch(2);
            assertThatThrownBy(() -> team.run(2, (task, worker) -> {
                both.countDown();
                await(both);
                if (worker == 0) {
                    team.run(2, (t, w) -> {
                    });
                }
            })).isInstanceOf(IllegalStateException.class).hasMessageContaining("must not start another loop");
        }
    }

    private static boolean await(CountDownLatch latch) {
        try {
            return latch.await(20, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }
}
