package qlora4j.template;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import qlora4j.template.Values.Seq;

/** The methods of {@code str} that take a text apart. */
final class SplitMethods {

    private SplitMethods() {
    }

    static Object split(Interpreter in, String text, Args args, boolean fromEnd) {
        String name = fromEnd ? "rsplit" : "split";
        Object[] bound = args.bind(name, 0, "sep", "maxsplit");
        int most = bound[1] == Values.MISSING ? -1 : Py.integer(bound[1]);
        int limit = most < 0 ? Integer.MAX_VALUE : most;
        List<Object> parts;
        if (bound[0] == Values.MISSING || bound[0] == null) {
            parts = fromEnd ? wordsFromEnd(text, limit) : words(text, limit);
        } else {
            String separator = Py.string(bound[0], "separator");
            if (separator.isEmpty()) {
                throw Fault.value("empty separator");
            }
            parts = fromEnd ? partsFromEnd(in.session, text, separator, limit)
                    : parts(in.session, text, separator, limit);
        }
        in.session.tick(parts.size());
        in.session.room(text.length());
        return Seq.list(parts);
    }

    private static List<Object> parts(Session session, String text, String separator, int limit) {
        List<Object> parts = new ArrayList<>();
        int at = 0;
        while (parts.size() < limit) {
            int next = Ops.find(session, text, separator, at);
            if (next < 0) {
                break;
            }
            parts.add(text.substring(at, next));
            at = next + separator.length();
        }
        parts.add(text.substring(at));
        return parts;
    }

    private static List<Object> partsFromEnd(Session session, String text, String separator, int limit) {
        List<Object> parts = new ArrayList<>();
        int end = text.length();
        Ops.find(session, text, separator, 0);
        while (parts.size() < limit && end >= separator.length()) {
            int next = text.lastIndexOf(separator, end - separator.length());
            if (next < 0) {
                break;
            }
            parts.add(text.substring(next + separator.length(), end));
            end = next;
        }
        parts.add(text.substring(0, end));
        Collections.reverse(parts);
        return parts;
    }

    private static List<Object> words(String text, int limit) {
        List<Object> words = new ArrayList<>();
        int at = skip(text, 0, true);
        while (at < text.length()) {
            if (words.size() == limit) {
                words.add(text.substring(at));
                break;
            }
            int end = skip(text, at, false);
            words.add(text.substring(at, end));
            at = skip(text, end, true);
        }
        return words;
    }

    /** The end of the run of white space, or of anything else, that begins at a place. */
    private static int skip(String text, int from, boolean space) {
        int at = from;
        while (at < text.length() && Unicode.isSpace(text.charAt(at)) == space) {
            at++;
        }
        return at;
    }

    private static List<Object> wordsFromEnd(String text, int limit) {
        List<Object> words = new ArrayList<>();
        int end = skipBack(text, text.length(), true);
        while (end > 0) {
            if (words.size() == limit) {
                words.add(text.substring(0, end));
                break;
            }
            int start = skipBack(text, end, false);
            words.add(text.substring(start, end));
            end = skipBack(text, start, true);
        }
        Collections.reverse(words);
        return words;
    }

    private static int skipBack(String text, int from, boolean space) {
        int at = from;
        while (at > 0 && Unicode.isSpace(text.charAt(at - 1)) == space) {
            at--;
        }
        return at;
    }

    static Object lines(Interpreter in, String text, Args args) {
        Object keep = args.bind("splitlines", 0, "keepends")[0];
        List<Object> lines = Unicode.lines(text, keep != Values.MISSING && Py.truth(keep));
        in.session.tick(lines.size());
        in.session.room(text.length());
        return Seq.list(lines);
    }

    static Object partition(Interpreter in, String text, Args args, boolean last) {
        String separator = Py.string(args.bind(last ? "rpartition" : "partition", 1, "/sep")[0], "separator");
        if (separator.isEmpty()) {
            throw Fault.value("empty separator");
        }
        int at = Ops.find(in.session, text, separator, 0);
        in.session.room(text.length());
        if (at < 0) {
            return last ? Args.tuple("", "", text) : Args.tuple(text, "", "");
        }
        int cut = last ? text.lastIndexOf(separator) : at;
        return Args.tuple(text.substring(0, cut), separator, text.substring(cut + separator.length()));
    }
}
