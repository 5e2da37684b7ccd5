package qlora4j.train.data;

import dev.hardwood.InputFile;
import dev.hardwood.metadata.CompressionCodec;
import dev.hardwood.reader.ParquetFileReader;
import dev.hardwood.reader.RowReader;
import dev.hardwood.row.PqList;
import dev.hardwood.row.PqMap;
import dev.hardwood.row.PqStruct;
import dev.hardwood.row.StructAccessor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/**
 * The rows of an Apache Parquet file, nested columns included, read by the library hardwood. The file is read into
 * memory first: its threads decode pages while others are asked for, and a mapped file that changes meanwhile ends the
 * process.
 */
final class ParquetRows {
    private static final Set<CompressionCodec> CODECS = Set.of(CompressionCodec.UNCOMPRESSED, CompressionCodec.SNAPPY,
            CompressionCodec.GZIP, CompressionCodec.ZSTD);

    private ParquetRows() {
    }

    static List<RawRow> read(Path file) throws IOException {
        List<RawRow> rows = new ArrayList<>();
        String where = file.toString();
        try (ParquetFileReader reader = ParquetFileReader.open(InputFile.of(direct(file)))) {
            checkCodecs(file, reader);
            try (RowReader values = reader.rowReader()) {
                while (values.hasNext()) {
                    values.next();
                    where = file + ", row " + (rows.size() + 1);
                    rows.add(new RawRow(where, fields(values)));
                }
            }
            long expected = reader.getFileMetaData().numRows();
            if (rows.size() != expected) {
                throw new DataException(file + ": its footer says " + expected + " rows, there are " + rows.size());
            }
        } catch (DataException e) {
            throw e;
        } catch (IOException | RuntimeException | LinkageError e) {
            throw new DataException(where + ": not readable as Parquet: " + reason(e), e);
        }
        if (rows.isEmpty()) {
            throw new DataException(file + ": holds no rows");
        }
        return rows;
    }

    /** The file's bytes, outside of the heap, where the decompressors take them from. */
    private static ByteBuffer direct(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file)) {
            if (channel.size() > Integer.MAX_VALUE) {
                throw new DataException(file + ": is larger than 2 GiB; split it");
            }
            ByteBuffer bytes = ByteBuffer.allocateDirect((int) channel.size());
            while (bytes.hasRemaining() && channel.read(bytes) >= 0) {
                // goes on until all is read
            }
            return bytes.flip();
        }
    }

    private static String reason(Throwable e) {
        Throwable deepest = e;
        while (deepest.getCause() != null && deepest.getCause() != deepest) {
            deepest = deepest.getCause();
        }
        return deepest.getMessage() == null ? deepest.getClass().getSimpleName() : deepest.getMessage();
    }

    private static void checkCodecs(Path file, ParquetFileReader reader) {
        reader.getFileMetaData().rowGroups().stream().flatMap(group -> group.columns().stream())
                .filter(column -> !CODECS.contains(column.metaData().codec())).findFirst().ifPresent(column -> {
                    throw new DataException(file + ": the column \"" + column.metaData().pathInSchema()
                            + "\" is compressed by " + column.metaData().codec() + ", which is not supported; write the"
                            + " file with one of " + CODECS.stream().map(Enum::name).sorted()
                                    .collect(Collectors.joining(", ")));
                });
    }

    private static Map<String, Object> fields(StructAccessor struct) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < struct.getFieldCount(); i++) {
            map.put(struct.getFieldName(i), value(struct.isNull(i) ? null : struct.getValue(i)));
        }
        return map;
    }

    /** A value as JSON would hold it; dates and the like as text. */
    private static Object value(Object value) {
        return switch (value) {
            case null -> null;
            case String text -> text;
            case Boolean flag -> flag;
            case Integer number -> number.longValue();
            case Long number -> number;
            case Float number -> number.doubleValue();
            case Double number -> number;
            case byte[] bytes -> text(bytes);
            case PqStruct struct -> fields(struct);
            case PqList list -> {
                List<Object> values = new ArrayList<>();
                for (int i = 0; i < list.size(); i++) {
                    values.add(value(list.isNull(i) ? null : list.get(i)));
                }
                yield values;
            }
            case PqMap map -> {
                Map<String, Object> entries = new LinkedHashMap<>();
                for (PqMap.Entry entry : map.getEntries()) {
                    entries.put(String.valueOf(value(entry.getKey())),
                            value(entry.isValueNull() ? null : entry.getValue()));
                }
                yield entries;
            }
            default -> value.toString();
        };
    }

    /** Older writers do not mark their strings; what is not UTF-8 stays as bytes. */
    private static Object text(byte[] bytes) {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException e) {
            return bytes;
        }
    }
}
