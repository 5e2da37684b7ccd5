package qlora4j.hub;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.CharConversionException;
import java.io.IOException;
import java.io.InputStream;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import qlora4j.hub.HubException.Kind;

/**
 * The files of a model at a commit.
 *
 * @param commit the commit
 * @param names as the hub lists them, unchecked
 */
record RepoListing(String commit, List<String> names) {
    static final String INDEX = "model.safetensors.index.json";
    static final String WEIGHTS = "model.safetensors";
    static final String ADAPTER_CONFIG = "adapter_config.json";
    static final String ADAPTER_WEIGHTS = "adapter_model.safetensors";
    static final String CONFIG = "config.json";
    /** What a model or an adapter needs beside its weights, where it is there. */
    private static final Pattern SMALL = Pattern.compile("config\\.json|generation_config\\.json|tokenizer\\.json"
            + "|tokenizer_config\\.json|special_tokens_map\\.json|added_tokens\\.json|vocab\\.json|merges\\.txt"
            + "|tokenizer\\.model|chat_template\\.jinja|additional_chat_templates/[\\w.-]+\\.jinja"
            + "|adapter_config\\.json");
    private static final int MAX_BYTES = 64 << 20;
    private static final JsonMapper JSON = new JsonMapper();

    /** Asks the hub. */
    static RepoListing of(HubClient client, RepoId repo) throws IOException {
        String path = "/api/models/" + repo.name() + "/revision/"
                + URLEncoder.encode(repo.revision(), StandardCharsets.UTF_8).replace("+", "%20");
        JsonNode json;
        try (InputStream in = client.send(new HubClient.Ask(repo, repo.toString(), "GET", client.at(path), 0)).body()) {
            json = read(repo, in);
        }
        String commit = json.path("sha").asText();
        if (!commit.matches("[0-9a-f]{40}")) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": the hub's answer names no commit (\"sha\" is "
                    + HubClient.shown(json.path("sha").toString()) + ")");
        }
        List<String> names = new ArrayList<>();
        for (JsonNode sibling : json.path("siblings")) {
            if (!sibling.path("rfilename").isTextual()) {
                throw new HubException(Kind.BAD_ANSWER, repo + ": the hub lists a file without a name");
            }
            names.add(sibling.get("rfilename").textValue());
        }
        return new RepoListing(commit, List.copyOf(names));
    }

    private static JsonNode read(RepoId repo, InputStream in) throws IOException {
        byte[] bytes = in.readNBytes(MAX_BYTES + 1);
        if (bytes.length > MAX_BYTES) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": the hub's list of files is over " + MAX_BYTES + " bytes");
        }
        try {
            JsonNode json = JSON.readTree(bytes);
            if (json != null && json.isObject()) {
                return json;
            }
        } catch (JsonProcessingException e) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": the hub's answer is not JSON: " + e.getOriginalMessage(),
                    e);
        } catch (CharConversionException e) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": the hub's answer is not in UTF-8: " + e.getMessage(), e);
        }
        throw new HubException(Kind.BAD_ANSWER, repo + ": the hub's answer is no object");
    }

    /** The files that are small and needed, those that {@code include} asks for, and the weights but for shards. */
    Set<String> wanted(RepoId repo, List<String> include) throws HubException {
        Set<String> wanted = new TreeSet<>();
        for (String name : names) {
            if (SMALL.matcher(name).matches()) {
                wanted.add(name);
            }
        }
        List<Pattern> globs = include.stream().map(RepoListing::glob).toList();
        for (String name : names) {
            if (globs.stream().anyMatch(g -> g.matcher(name).matches())) {
                wanted.add(safe(repo, name));
            }
        }
        if (names.contains(ADAPTER_WEIGHTS) && names.contains(ADAPTER_CONFIG)) {
            wanted.add(ADAPTER_WEIGHTS);
        }
        if (names.contains(WEIGHTS)) {
            wanted.add(WEIGHTS);
        } else if (names.contains(INDEX)) {
            wanted.add(INDEX);
        }
        boolean weights = wanted.contains(WEIGHTS) || wanted.contains(INDEX) || wanted.contains(ADAPTER_WEIGHTS);
        if (!weights && include.isEmpty()) {
            throw new HubException(Kind.NO_FILE,
                    repo + ": there are no weights in safetensors (" + WEIGHTS + ", " + INDEX
                            + " or " + ADAPTER_WEIGHTS + ")" + others());
        }
        return wanted;
    }

    private String others() {
        if (names.stream().anyMatch(n -> n.endsWith(".gguf"))) {
            return ", only GGUF files: --include '*.gguf' pulls them, and import makes a model of one";
        }
        return names.stream().anyMatch(n -> n.matches(".*\\.(bin|pt|pth|ckpt)"))
                ? ", only PyTorch files, which can run code when they are read: look for a converted revision"
                : "";
    }

    /** {@code *} for anything within a folder, {@code ?} for a character; a pattern without a slash is for any folder. */
    private static Pattern glob(String glob) {
        StringBuilder pattern = new StringBuilder(glob.contains("/") ? "" : "(?:.*/)?");
        for (char c : glob.toCharArray()) {
            pattern.append(c == '*' ? "[^/]*" : c == '?' ? "[^/]" : Pattern.quote(String.valueOf(c)));
        }
        return Pattern.compile(pattern.toString(), Pattern.DOTALL);
    }

    /** The shards that an index names, which must be files of the model. */
    Set<String> shards(RepoId repo, byte[] index) throws IOException {
        JsonNode map;
        try {
            map = JSON.readTree(index).path("weight_map");
        } catch (JsonProcessingException e) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": " + INDEX + " is not JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": " + INDEX + " is not in UTF-8: " + e.getMessage(), e);
        }
        Set<String> shards = new TreeSet<>();
        for (JsonNode shard : map) {
            shards.add(safe(repo, shard.asText()));
        }
        for (String shard : shards) {
            if (!names.contains(shard)) {
                throw new HubException(Kind.NO_FILE, repo + ": " + INDEX + " names " + HubClient.shown(shard)
                        + ", which the model does not have");
            }
        }
        if (shards.isEmpty()) {
            throw new HubException(Kind.BAD_ANSWER, repo + ": " + INDEX + " names no files");
        }
        return shards;
    }

    private static String safe(RepoId repo, String name) throws HubException {
        if (!SafeNames.isSafe(name)) {
            throw new HubException(Kind.UNSAFE_NAME, repo + ": the file name \"" + HubClient.shown(name)
                    + "\" could lead out of the cache; nothing of it was written");
        }
        return name;
    }
}
