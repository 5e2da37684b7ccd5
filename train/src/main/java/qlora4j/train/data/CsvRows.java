package qlora4j.train.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.MappingIterator;
import com.fasterxml.jackson.dataformat.csv.CsvMapper;
import com.fasterxml.jackson.dataformat.csv.CsvParser;
import com.fasterxml.jackson.dataformat.csv.CsvSchema;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Values separated by commas, tabs or semicolons, as RFC 4180 quotes them, with a line of column names first. Every
 * value is a string; a column without a name is called as pandas calls it, {@code Unnamed: N}.
 */
final class CsvRows {
    private static final char[] SEPARATORS = {',', '\t', ';'};
    private static final CsvMapper MAPPER = CsvMapper.builder().enable(CsvParser.Feature.WRAP_AS_ARRAY)
            .enable(CsvParser.Feature.SKIP_EMPTY_LINES).build();

    private CsvRows() {
    }

    /** The separator that stands most often in the first line, outside of quotes; a comma where none does. */
    static char separator(String text) {
        int[] counts = new int[SEPARATORS.length];
        boolean quoted = false;
        for (int i = 0; i < text.length() && (quoted || text.charAt(i) != '\n'); i++) {
            char c = text.charAt(i);
            quoted ^= c == '"';
            for (int s = 0; s < SEPARATORS.length && !quoted; s++) {
                counts[s] += c == SEPARATORS[s] ? 1 : 0;
            }
        }
        int best = 0;
        for (int s = 1; s < counts.length; s++) {
            best = counts[s] > counts[best] ? s : best;
        }
        return SEPARATORS[best];
    }

    /** Whether a text begins like this format: a line of two names or more, or one known to be a column's. */
    static boolean looksLike(String text, Set<String> known) {
        int end = text.indexOf('\n');
        String line = (end < 0 ? text : text.substring(0, end)).strip();
        char separator = separator(text);
        return line.indexOf(separator) >= 0 || known.contains(unquoted(line));
    }

    private static String unquoted(String name) {
        return name.length() > 1 && name.startsWith("\"") && name.endsWith("\"")
                ? name.substring(1, name.length() - 1)
                : name;
    }

    static List<RawRow> read(String file, String text) throws IOException {
        CsvSchema schema = CsvSchema.emptySchema().withColumnSeparator(separator(text));
        List<RawRow> rows = new ArrayList<>();
        String where = file + ", the line of column names";
        try (MappingIterator<String[]> lines = MAPPER.readerFor(String[].class).with(schema).readValues(text)) {
            List<String> columns = columns(where, lines.nextValue());
            for (int number = 1;; number++) {
                where = file + ", row " + number;
                if (!lines.hasNextValue()) {
                    break;
                }
                String[] values = lines.nextValue();
                if (values.length != columns.size()) {
                    throw new DataException(where + ": has " + values.length + " values, the file has "
                            + columns.size() + " columns, " + columns + "; a value that holds the separator, a quote or"
                            + " a new line must stand in \"quotes\"");
                }
                Map<String, Object> fields = new LinkedHashMap<>();
                for (int i = 0; i < values.length; i++) {
                    fields.put(columns.get(i), values[i]);
                }
                rows.add(new RawRow(where, fields));
            }
        } catch (JsonProcessingException e) {
            throw new DataException(where + (e.getLocation() == null ? ""
                    : " (before line " + (e.getLocation().getLineNr() + 1) + ")") + ": not valid CSV: "
                    + e.getOriginalMessage(), e);
        }
        if (rows.isEmpty()) {
            throw new DataException(file + ": has column names and no rows");
        }
        return rows;
    }

    private static List<String> columns(String where, String[] names) {
        List<String> columns = new ArrayList<>();
        Set<String> seen = new HashSet<>();
        for (int i = 0; i < names.length; i++) {
            String name = names[i].isBlank() ? "Unnamed: " + i : names[i].strip();
            if (!seen.add(name)) {
                throw new DataException(where + ": two columns are called \"" + name + "\"");
            }
            columns.add(name);
        }
        return columns;
    }
}
