package qlora4j.cuda;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.SymbolLookup;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;
import jcuda.driver.CUresult;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.DeviceMemoryException;

/**
 * The driver's library, loaded once a process, and its error codes as exceptions. Whatever keeps it from being used is
 * a sentence in {@link #unavailable}.
 */
final class CudaDriver {
    /** The first driver that reads the PTX in this module (ISA 8.4). */
    static final String OLDEST_DRIVER = "550";
    /** What such a driver answers to cuDriverGetVersion at least. */
    private static final int OLDEST_CUDA = 12040;

    static final String LIBRARY = "libcuda.so.1";
    private static final String TMPDIR = "java.io.tmpdir";
    private static final Optional<String> UNAVAILABLE = load();

    private CudaDriver() {
    }

    /** Why no GPU can be used in this process, or empty. */
    static Optional<String> unavailable() {
        return UNAVAILABLE;
    }

    private static Optional<String> load() {
        String os = System.getProperty("os.name");
        String arch = System.getProperty("os.arch");
        if (!os.toLowerCase(Locale.ROOT).startsWith("linux") || !arch.equals("amd64")) {
            return Optional.of("runs on Linux x86-64 only; this is " + os + " " + arch + ". Use --backend cpu");
        }
        try (Arena arena = Arena.ofConfined()) {
            SymbolLookup.libraryLookup(LIBRARY, arena);
        } catch (IllegalArgumentException e) {
            return Optional.of("no NVIDIA driver is installed (" + LIBRARY + " was not found): install driver "
                    + OLDEST_DRIVER + " or newer, or use --backend cpu");
        }
        try {
            loadBinding();
        } catch (LinkageError e) {
            return Optional.of("the driver's library cannot be used: " + e.getMessage());
        }
        int[] version = new int[1];
        int rc = JCudaDriver.cuDriverGetVersion(version);
        if (rc != CUresult.CUDA_SUCCESS) {
            return Optional.of("the NVIDIA driver does not answer: " + describe(rc));
        }
        Optional<String> tooOld = tooOld(version[0]);
        if (tooOld.isPresent()) {
            return tooOld;
        }
        rc = JCudaDriver.cuInit(0);
        if (rc == CUresult.CUDA_ERROR_NO_DEVICE) {
            return Optional.of("the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES hides them, or there is none)");
        }
        return rc == CUresult.CUDA_SUCCESS ? Optional.empty()
                : Optional.of("the NVIDIA driver cannot be started: " + describe(rc));
    }

    /** Why a driver that gives {@code cuda} as its version cannot be used, or empty. */
    static Optional<String> tooOld(int cuda) {
        return cuda >= OLDEST_CUDA ? Optional.empty()
                : Optional.of("the NVIDIA driver is too old: it offers CUDA " + version(cuda) + ", driver "
                        + OLDEST_DRIVER + " or newer (CUDA " + version(OLDEST_CUDA)
                        + ") is needed. Install one, or use --backend cpu");
    }

    private static String version(int v) {
        return v / 1000 + "." + v % 1000 / 10;
    }

    /**
     * JCuda unpacks its library into java.io.tmpdir under a fixed name and loads it, so that two processes that do so
     * at once read half-written files. It is given a directory of its own while it does that.
     */
    private static void loadBinding() {
        String before = System.getProperty(TMPDIR);
        try {
            Path own = Files.createTempDirectory("qlora4j-cuda");
            System.setProperty(TMPDIR, own.toString());
            try {
                JCudaDriver.setExceptionsEnabled(false);
            } finally {
                System.setProperty(TMPDIR, before);
                remove(own);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The loaded library stays usable when its file is gone. */
    private static void remove(Path directory) throws IOException {
        try (var files = Files.newDirectoryStream(directory, "*JCuda*")) {
            for (Path file : files) {
                Files.delete(file);
            }
        }
        try {
            Files.delete(directory);
        } catch (DirectoryNotEmptyException e) {
            // Another thread asked for a temporary file meanwhile; it is not ours to delete.
        }
    }

    /**
     * Throws when {@code rc}, the result of the driver's function {@code call}, is an error. Allocations say more of what
     * they were for; here it is a context, a kernel's code or a recorded step that found no room.
     */
    static void check(int rc, String call) {
        if (rc == CUresult.CUDA_ERROR_OUT_OF_MEMORY) {
            throw new DeviceMemoryException("the GPU has no memory left (" + call + "). Other processes may hold it:"
                    + " nvidia-smi lists them. A smaller model or batch needs less, --backend cpu none");
        }
        if (rc != CUresult.CUDA_SUCCESS) {
            throw new CudaException(call + ": " + describe(rc), rc);
        }
    }

    /** Name, meaning and number of an error. */
    static String describe(int rc) {
        String[] meaning = new String[1];
        JCudaDriver.cuGetErrorString(rc, meaning);
        return CUresult.stringFor(rc) + (meaning[0] == null ? "" : " (" + meaning[0] + ")");
    }
}
