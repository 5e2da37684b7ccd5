package qlora4j.safetensors;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.vector.FieldVector;
import qlora4j.safetensors.SafetensorsException.Kind;
import qlora4j.tensor.Tensor;

/**
 * The tensors of a model: one safetensors file, or an index and its shards. All shards are mapped and their headers
 * checked at once; a tensor that a shard holds beyond the index belongs to the model too.
 */
public final class SafetensorsModel implements SafetensorsView {
    /** The name, without its endings, of the file or index that a model directory holds. */
    public static final String DEFAULT_STEM = "model";
    static final String FILE_ENDING = ".safetensors";
    static final String INDEX_ENDING = ".safetensors.index.json";

    private final Path location;
    private final List<Safetensors> shards;
    private final Map<String, Safetensors> holders;
    private final List<String> names;
    private final Map<String, String> metadata;

    private SafetensorsModel(Path location, List<Safetensors> shards) throws SafetensorsException {
        this.location = location;
        this.shards = List.copyOf(shards);
        Map<String, Safetensors> byName = new LinkedHashMap<>();
        Map<String, String> merged = new LinkedHashMap<>();
        for (Safetensors shard : shards) {
            for (String name : shard.names()) {
                Safetensors other = byName.putIfAbsent(name, shard);
                if (other != null) {
                    throw new SafetensorsException(Kind.TENSOR_IN_TWO_SHARDS, location, name,
                            "both " + other.file().getFileName() + " and " + shard.file().getFileName() + " hold it");
                }
            }
            shard.metadata().forEach(merged::putIfAbsent);
        }
        this.holders = byName;
        this.names = List.copyOf(byName.keySet());
        this.metadata = Collections.unmodifiableMap(merged);
    }

    /**
     * Opens a model directory that holds {@code model.safetensors} or, where that is absent,
     * {@code model.safetensors.index.json}; or such a file or index itself.
     *
     * @throws SafetensorsException if a file is malformed, missing, or not what the index promises
     * @throws IOException if a file cannot be read
     */
    public static SafetensorsModel open(Path directoryOrFile) throws IOException {
        return open(directoryOrFile, DEFAULT_STEM);
    }

    /** The same for a directory whose files start with another name, such as {@code adapter_model}. */
    public static SafetensorsModel open(Path directoryOrFile, String stem) throws IOException {
        Path file = directoryOrFile;
        if (Files.isDirectory(directoryOrFile)) {
            file = directoryOrFile.resolve(stem + FILE_ENDING);
            if (!Files.exists(file)) {
                file = directoryOrFile.resolve(stem + INDEX_ENDING);
            }
            if (!Files.exists(file)) {
                throw new SafetensorsException(Kind.NO_MODEL, directoryOrFile, null, "the directory holds neither "
                        + stem + FILE_ENDING + " nor " + stem + INDEX_ENDING);
            }
        } else if (!Files.exists(directoryOrFile)) {
            throw new SafetensorsException(Kind.NO_MODEL, directoryOrFile, null, "there is no such file or directory");
        }
        if (file.getFileName().toString().endsWith(".json")) {
            return openIndex(file);
        }
        Safetensors single = Safetensors.open(file);
        return new SafetensorsModel(file, List.of(single));
    }

    private static SafetensorsModel openIndex(Path index) throws IOException {
        Map<String, String> shardOf = ShardIndex.read(index);
        Map<String, Path> files = new TreeMap<>();
        for (Map.Entry<String, String> e : shardOf.entrySet()) {
            if (!files.containsKey(e.getValue())) {
                files.put(e.getValue(), ShardIndex.resolve(index, e.getKey(), e.getValue()));
            }
        }
        List<Safetensors> shards = new ArrayList<>();
        try {
            Map<String, Safetensors> byFile = new HashMap<>();
            for (Map.Entry<String, Path> e : files.entrySet()) {
                Safetensors shard = Safetensors.open(e.getValue());
                shards.add(shard);
                byFile.put(e.getKey(), shard);
            }
            for (Map.Entry<String, String> e : shardOf.entrySet()) {
                if (!byFile.get(e.getValue()).contains(e.getKey())) {
                    throw new SafetensorsException(Kind.TENSOR_NOT_IN_SHARD, index, e.getKey(),
                            "the index places it in "
                                    + e.getValue() + ", which does not hold it");
                }
            }
            return new SafetensorsModel(index, shards);
        } catch (IOException | RuntimeException | Error e) {
            shards.forEach(Safetensors::close);
            throw e;
        }
    }

    /** The files that are open, in the order of their names. */
    public List<Path> files() {
        return shards.stream().map(Safetensors::file).toList();
    }

    private Safetensors holder(String name) {
        Safetensors shard = holders.get(name);
        if (shard == null) {
            throw new IllegalArgumentException(Safetensors.missing(location, name, names));
        }
        return shard;
    }

    @Override
    public List<String> names() {
        return names;
    }

    @Override
    public boolean contains(String name) {
        return holders.containsKey(name);
    }

    @Override
    public TensorInfo info(String name) {
        return holder(name).info(name);
    }

    @Override
    public Map<String, String> metadata() {
        return metadata;
    }

    @Override
    public MemorySegment segment(String name) {
        return holder(name).segment(name);
    }

    @Override
    public Tensor tensor(String name) {
        return holder(name).tensor(name);
    }

    @Override
    public void unload(String name) {
        holder(name).unload(name);
    }

    @Override
    public ArrowBuf arrowBuffer(String name, BufferAllocator allocator) {
        return holder(name).arrowBuffer(name, allocator);
    }

    @Override
    public FieldVector arrowVector(String name, BufferAllocator allocator) {
        return holder(name).arrowVector(name, allocator);
    }

    @Override
    public void close() {
        shards.forEach(Safetensors::close);
    }

    @Override
    public String toString() {
        return location + " (" + names.size() + " tensors in " + shards.size() + " files)";
    }
}
