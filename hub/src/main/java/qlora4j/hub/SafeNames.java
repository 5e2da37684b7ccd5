package qlora4j.hub;

import java.util.Locale;
import java.util.Set;

/** Which names from outside may become paths, on any system. */
final class SafeNames {
    private static final int MAX_LENGTH = 1024;
    private static final int MAX_PART = 255;
    /** Names that Windows gives to devices, with any ending. */
    private static final Set<String> DEVICES = Set.of("con", "prn", "aux", "nul", "com1", "com2", "com3", "com4",
            "com5",
            "com6", "com7", "com8", "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9");

    private SafeNames() {
    }

    /**
     * Whether a name with {@code /} between its parts stays below the folder it is put in: relative, without empty parts
     * and {@code .} and {@code ..}, without what separates drives, streams and folders on Windows, without control
     * characters, and no part a device's name or one that Windows writes differently.
     */
    static boolean isSafe(String name) {
        if (name.isEmpty() || name.length() > MAX_LENGTH) {
            return false;
        }
        for (String part : name.split("/", -1)) {
            int dot = part.indexOf('.');
            String stem = (dot < 0 ? part : part.substring(0, dot)).toLowerCase(Locale.ROOT);
            if (part.isEmpty() || part.length() > MAX_PART || part.equals(".") || part.equals("..")
                    || part.endsWith(".") || part.endsWith(" ") || part.startsWith(" ") || DEVICES.contains(stem)
                    || !part.chars().allMatch(SafeNames::isPlain)) {
                return false;
            }
        }
        return true;
    }

    private static boolean isPlain(int c) {
        return c >= ' ' && c != 0x7f && "\\:*?\"<>|".indexOf(c) < 0 && !Character.isISOControl(c)
                && !Character.isSurrogate((char) c) && Character.getType(c) != Character.FORMAT;
    }

    /** Whether a checksum may name a blob: letters, digits, {@code -}, {@code _}, and dots inside. */
    static boolean isBlobName(String etag) {
        return etag.matches("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}") && isSafe(etag) && !etag.contains("..");
    }
}
