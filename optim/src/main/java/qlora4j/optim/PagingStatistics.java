package qlora4j.optim;

/**
 * What paging has cost since the state was created.
 *
 * @param bytesSpilled written back to the store
 * @param bytesLoaded read from the store
 * @param hits pages that were in memory when they were asked for: resident ones and those prefetched in time
 * @param waits pages that were waited for
 */
public record PagingStatistics(long bytesSpilled, long bytesLoaded, long hits, long waits) {
}
