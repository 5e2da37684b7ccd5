package qlora4j.hub;

import java.util.regex.Pattern;

/**
 * A model on the hub.
 *
 * @param name {@code owner/name}
 * @param revision a branch, a tag or a commit
 */
public record RepoId(String name, String revision) {
    /** The revision of a name without one. */
    public static final String MAIN = "main";
    private static final String PART = "[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?";
    private static final Pattern NAME = Pattern.compile(PART + "/" + PART);
    private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");

    /**
     * Checks both.
     *
     * @throws IllegalArgumentException if one is not of its form
     */
    public RepoId {
        if (!isName(name)) {
            throw new IllegalArgumentException(
                    "\"" + name + "\" is no name of a model on the hub: owner/name of letters,"
                            + " digits, and '-', '_', '.' between them is expected");
        }
        if (!SafeNames.isSafe(revision) || revision.length() > 255) {
            throw new IllegalArgumentException("\"" + revision + "\" is no revision: a branch, a tag or a commit is"
                    + " expected");
        }
    }

    private static boolean isName(String name) {
        return NAME.matcher(name).matches() && !name.contains("--") && !name.contains("..") && !name.endsWith(".git");
    }

    /** Whether {@code text} has the form {@code owner/name} or {@code owner/name@revision}. */
    public static boolean looksLike(String text) {
        int at = text.indexOf('@');
        return isName(at < 0 ? text : text.substring(0, at)) && (at < 0 || SafeNames.isSafe(text.substring(at + 1)));
    }

    /** Reads {@code owner/name} or {@code owner/name@revision}. */
    public static RepoId parse(String text) {
        int at = text.indexOf('@');
        return at < 0 ? new RepoId(text, MAIN) : new RepoId(text.substring(0, at), text.substring(at + 1));
    }

    /** Whether the revision is a whole commit hash, which never changes. */
    public boolean isCommit() {
        return COMMIT.matcher(revision).matches();
    }

    /** The name of its folder in the cache. */
    String folder() {
        return "models--" + name.replace("/", "--");
    }

    @Override
    public String toString() {
        return revision.equals(MAIN) ? name : name + "@" + revision;
    }
}
