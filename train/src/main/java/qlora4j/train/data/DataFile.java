package qlora4j.train.data;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.zip.GZIPInputStream;

/**
 * A file of rows, whose format its first bytes tell, whatever it is called.
 *
 * @param format how it was read, for people
 */
record DataFile(Path path, String format, List<RawRow> rows) {
    static final String FORMS = "a data file holds a JSON array of objects, or one JSON object per line, or is CSV with"
            + " a line of column names, or Parquet";
    /** The longest array that every JVM can make, and so the longest text that is read in one piece. */
    private static final int MAX_BYTES = Integer.MAX_VALUE - 8;
    private static final char BYTE_ORDER_MARK = '\uFEFF';
    private static final int MAGIC = 6;

    /**
     * Reads a file; at least one row.
     *
     * @throws DataException where it is in none of the formats, or malformed
     * @throws IOException   where it cannot be read
     */
    static DataFile read(Path file) throws IOException {
        if (!Files.isRegularFile(file)) {
            throw new DataException(file + ": " + (Files.exists(file) ? "is no file; " + FORMS
                    : "there is no such file"));
        }
        String magic;
        try (InputStream in = Files.newInputStream(file)) {
            magic = new String(in.readNBytes(MAGIC), StandardCharsets.ISO_8859_1);
        }
        if (magic.startsWith("PAR1")) {
            return new DataFile(file, "Parquet", ParquetRows.read(file));
        }
        if (magic.startsWith("PARE")) {
            throw new DataException(file + ": is an encrypted Parquet file, which is not supported");
        }
        if (magic.startsWith("ARROW1") || magic.startsWith("\u00ff\u00ff\u00ff\u00ff")) {
            throw new DataException(file + ": is an Arrow file, which is not supported; write it with the data set's"
                    + " to_parquet or to_json");
        }
        boolean zipped = magic.startsWith("\u001f\u008b");
        return text(file, zipped ? ", gzip" : "", zipped ? unzipped(file) : bytes(file));
    }

    private static byte[] bytes(Path file) throws IOException {
        if (Files.size(file) > MAX_BYTES) {
            throw new DataException(file + ": is larger than 2 GiB; split it");
        }
        return Files.readAllBytes(file);
    }

    private static byte[] unzipped(Path file) throws IOException {
        try (InputStream in = new GZIPInputStream(new ByteArrayInputStream(bytes(file)))) {
            byte[] bytes = in.readNBytes(MAX_BYTES);
            if (in.read() >= 0) {
                throw new DataException(file + ": unpacks to more than 2 GiB; split it");
            }
            return bytes;
        } catch (java.util.zip.ZipException | java.io.EOFException e) {
            throw new DataException(file + ": not valid gzip: " + e.getMessage(), e);
        }
    }

    private static DataFile text(Path file, String packed, byte[] bytes) throws IOException {
        String name = file.toString();
        String text = decode(name, bytes);
        String body = text.strip();
        if (body.isEmpty()) {
            throw new DataException(file + ": is empty; " + FORMS);
        }
        if (body.charAt(0) == '[') {
            return new DataFile(file, "JSON" + packed, JsonRows.array(name, text));
        }
        if (body.charAt(0) == '{') {
            return new DataFile(file, "JSON lines" + packed, JsonRows.lines(name, text));
        }
        if (!body.startsWith("\"{") && CsvRows.looksLike(body, Columns.KNOWN)) {
            return new DataFile(file, "CSV" + packed, CsvRows.read(name, text));
        }
        throw new DataException(file + ": begins with neither [ nor { nor a line of column names; " + FORMS);
    }

    private static String decode(String file, byte[] bytes) {
        ByteBuffer in = ByteBuffer.wrap(bytes);
        CharBuffer out = CharBuffer.allocate(bytes.length);
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder();
        CoderResult result = decoder.decode(in, out, true);
        if (result.isError()) {
            int line = 1;
            for (int i = 0; i < in.position(); i++) {
                line += bytes[i] == '\n' ? 1 : 0;
            }
            throw new DataException(file + ", line " + line + ": byte " + in.position()
                    + " of the file is not UTF-8; save the file as UTF-8");
        }
        out.flip();
        return withoutByteOrderMark(out.toString());
    }

    static String withoutByteOrderMark(String text) {
        return !text.isEmpty() && text.charAt(0) == BYTE_ORDER_MARK ? text.substring(1) : text;
    }
}
