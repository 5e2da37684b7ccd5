package qlora4j.hub;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/**
 * The checksum that a file's ETag is: SHA-256 of what Git LFS and Xet hold (64 hexadecimal digits), git's own blob hash
 * of small files (40), which is SHA-1 over {@code "blob LENGTH\0"} and the content. Another ETag says nothing.
 */
final class Checksum {
    private final String expected;
    private final MessageDigest digest;

    /**
     * A checksum that is still to be fed.
     *
     * @param etag what it is to be
     * @param length of the file; git's hash needs it
     */
    Checksum(String etag, long length) {
        boolean sha256 = etag.matches("[0-9a-f]{64}");
        boolean git = etag.matches("[0-9a-f]{40}") && length >= 0;
        this.expected = etag;
        try {
            this.digest =
                    sha256 ? MessageDigest.getInstance("SHA-256") : git ? MessageDigest.getInstance("SHA-1") : null;
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
        if (git) {
            digest.update(("blob " + length + "\0").getBytes(StandardCharsets.US_ASCII));
        }
    }

    void update(byte[] bytes, int n) {
        if (digest != null) {
            digest.update(bytes, 0, n);
        }
    }

    /** Null where the content is as expected, or nothing is; else what its checksum is. */
    String mismatch() {
        if (digest == null) {
            return null;
        }
        String actual = HexFormat.of().formatHex(digest.digest());
        return actual.equals(expected) ? null : actual;
    }
}
