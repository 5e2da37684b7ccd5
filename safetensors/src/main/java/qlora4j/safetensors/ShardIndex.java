package qlora4j.safetensors;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import qlora4j.safetensors.SafetensorsException.Kind;

/** Reads {@code model.safetensors.index.json}: {@code {"metadata": ..., "weight_map": {tensor: file}}}. */
final class ShardIndex {
    static final String WEIGHT_MAP = "weight_map";

    private ShardIndex() {
    }

    /** The file name of each tensor's shard, in the order of the index. Fields beside the map are passed over. */
    static Map<String, String> read(Path index) throws IOException {
        if (Files.size(index) > Header.MAX_BYTES) {
            throw malformed(index, "it is over " + Header.MAX_BYTES + " bytes long", null);
        }
        Map<String, String> shards = null;
        byte[] json = Files.readAllBytes(index);
        try (JsonParser p = Json.parser(json)) {
            if (p.nextToken() != JsonToken.START_OBJECT) {
                throw malformed(index, "it is not a JSON object", null);
            }
            while (p.nextToken() == JsonToken.FIELD_NAME) {
                String field = p.currentName();
                p.nextToken();
                if (!field.equals(WEIGHT_MAP)) {
                    p.skipChildren();
                } else if (shards != null) {
                    throw new SafetensorsException(Kind.DUPLICATE_KEY, index, null, WEIGHT_MAP + " stands twice");
                } else {
                    shards = weightMap(index, p);
                }
            }
            if (p.nextToken() != null) {
                throw malformed(index, "it goes on after its object's end", null);
            }
        } catch (CharacterCodingException e) {
            throw malformed(index, "it is not valid UTF-8", e);
        } catch (JsonProcessingException e) {
            throw malformed(index, "it is not JSON: " + e.getOriginalMessage(), e);
        }
        if (shards == null) {
            throw malformed(index, "it has no " + WEIGHT_MAP, null);
        }
        return shards;
    }

    private static Map<String, String> weightMap(Path index, JsonParser p) throws IOException {
        if (p.currentToken() != JsonToken.START_OBJECT) {
            throw malformed(index, "its " + WEIGHT_MAP + " is not an object", null);
        }
        Map<String, String> shards = new LinkedHashMap<>();
        while (p.nextToken() == JsonToken.FIELD_NAME) {
            String tensor = p.currentName();
            if (p.nextToken() != JsonToken.VALUE_STRING) {
                throw new SafetensorsException(Kind.INDEX_MALFORMED, index, tensor, "its file name is not a string");
            }
            if (shards.put(tensor, p.getText()) != null) {
                throw new SafetensorsException(Kind.DUPLICATE_KEY, index, tensor, "stands twice in " + WEIGHT_MAP);
            }
        }
        return shards;
    }

    /** The shard's path, which must stay in the index's directory and be there (as a file or a link to one). */
    static Path resolve(Path index, String tensor, String shard) throws SafetensorsException {
        String shown = SafetensorsException.quote(shard);
        Path directory = index.toAbsolutePath().normalize().getParent();
        Path relative;
        try {
            relative = Path.of(shard);
        } catch (InvalidPathException e) {
            throw new SafetensorsException(Kind.INDEX_MALFORMED, index, tensor,
                    "its file name " + shown + " is no path");
        }
        Path file = directory.resolve(relative).normalize();
        if (relative.isAbsolute() || !file.startsWith(directory) || file.equals(directory)) {
            throw new SafetensorsException(Kind.SHARD_OUTSIDE_DIRECTORY, index, tensor,
                    "the index places it in " + shown + ", which is not a file inside the index's directory");
        }
        if (!Files.isRegularFile(file)) {
            throw new SafetensorsException(Kind.SHARD_MISSING, index, tensor,
                    "the index places it in " + shown + ", but there is no such file beside the index");
        }
        return index.resolveSibling(relative);
    }

    private static SafetensorsException malformed(Path index, String message, Throwable cause) {
        return new SafetensorsException(Kind.INDEX_MALFORMED, index, "the index is malformed: " + message, cause);
    }
}
