package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The PTX that is committed belongs to the sources beside it: what {@code compile-ptx} wrote, unchanged since. */
class PtxFreshTest {
    private static final Path SOURCES = Path.of("src/main/cuda");
    private static final Path PTX = Path.of("src/main/resources/qlora4j/cuda");
    private static final String AGAIN = "; run cuda/compile-ptx";
    /** As compile-ptx has it. */
    private static final String BASE_OPTIONS = "--std=c++17 --ftz=false --prec-div=true --prec-sqrt=true";
    private static final Pattern INCLUDE = Pattern.compile("^#include \"([^\"]+)\"", Pattern.MULTILINE);
    private static final Pattern TARGETS = Pattern.compile("^// targets: (.*)$", Pattern.MULTILINE);

    @Test
    void everySourceHasItsPtx() throws IOException {
        TreeSet<String> expected = new TreeSet<>();
        for (Path source : list(SOURCES, ".cu")) {
            String name = source.getFileName().toString().replaceAll("\\.cu$", "");
            String head = String.join("\n", Files.readAllLines(source).stream().limit(5).toList());
            Matcher m = TARGETS.matcher(head);
            for (String target : (m.find() ? m.group(1) : "80").split(" ")) {
                expected.add(name + (target.equals("80") ? "" : ".sm_" + target) + ".ptx");
            }
        }
        assertThat(expected).isNotEmpty();
        assertThat(list(PTX, ".ptx").stream().map(p -> p.getFileName().toString())).as("PTX files" + AGAIN)
                .containsExactlyInAnyOrderElementsOf(expected);
    }

    @Test
    void ptxAndSourceAgree() throws IOException {
        for (Path ptx : list(PTX, ".ptx")) {
            assertThat(stale(SOURCES, ptx)).as(ptx + AGAIN).isEmpty();
        }
    }

    @Test
    void aChangeIsSeen(@TempDir Path copy) throws IOException {
        Path cu = copy.resolve("convert.cu");
        Path types = copy.resolve("types.cuh");
        Path ptx = copy.resolve("convert.ptx");
        Files.copy(SOURCES.resolve("convert.cu"), cu);
        Files.copy(SOURCES.resolve("types.cuh"), types);
        Files.copy(PTX.resolve("convert.ptx"), ptx);
        assertThat(stale(copy, ptx)).isEmpty();
        Files.writeString(types, Files.readString(types) + " ");
        assertThat(stale(copy, ptx)).contains("source");
        Files.copy(SOURCES.resolve("types.cuh"), types, java.nio.file.StandardCopyOption.REPLACE_EXISTING);
        Files.writeString(ptx, Files.readString(ptx).replace("ret;", "ret; "));
        assertThat(stale(copy, ptx)).contains("ptx");
    }

    /** What of {@code ptx} does not agree with its first two lines. */
    private static List<String> stale(Path sources, Path ptx) throws IOException {
        String[] parts = Files.readString(ptx).split("\n", 3);
        String name = ptx.getFileName().toString().replaceAll("(\\.sm_\\w+)?\\.ptx$", "");
        List<String> wrong = new ArrayList<>();
        if (!parts[0].equals("// source " + sourceDigest(sources, name))) {
            wrong.add("source");
        }
        if (!parts[1].equals("// ptx " + hex(sha256().digest(parts[2].getBytes(StandardCharsets.UTF_8))))) {
            wrong.add("ptx");
        }
        return wrong;
    }

    private static String sourceDigest(Path sources, String name) throws IOException {
        List<String> parts = new ArrayList<>();
        withIncludes(sources, name + ".cu", parts);
        MessageDigest h = sha256();
        h.update((BASE_OPTIONS + "\n").getBytes(StandardCharsets.UTF_8));
        for (String part : parts) {
            h.update((part + "\n").getBytes(StandardCharsets.UTF_8));
            h.update(Files.readAllBytes(sources.resolve(part)));
        }
        return hex(h.digest());
    }

    private static void withIncludes(Path sources, String name, List<String> seen) throws IOException {
        if (!seen.contains(name)) {
            seen.add(name);
            Matcher m = INCLUDE.matcher(Files.readString(sources.resolve(name)));
            while (m.find()) {
                withIncludes(sources, m.group(1), seen);
            }
        }
    }

    private static List<Path> list(Path folder, String ending) throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(p -> p.toString().endsWith(ending)).sorted().toList();
        }
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }
}
