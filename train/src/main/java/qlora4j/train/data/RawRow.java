package qlora4j.train.data;

import java.util.Map;

/**
 * A row as its file holds it, before anything is known of its form.
 *
 * @param where  the file, and the line or the row counted from 1
 * @param fields by column: strings, numbers, booleans, null, lists and maps
 */
record RawRow(String where, Map<String, Object> fields) {
}
