package qlora4j.template;

import java.math.BigInteger;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Token.Type;

/**
 * Cuts a template into tokens as Jinja2 3.1.6 does with {@code trim_blocks} and {@code lstrip_blocks}: the first
 * newline after a tag or comment is dropped, blanks before one that begins its line are dropped, {@code -} drops all
 * white space on its side and {@code +} keeps it. Line ends become {@code \n}, and one at the end of the source is dropped.
 */
final class Lexer {

    private static final Pattern RAW_BEGIN =
            Pattern.compile("\\{%([-+]?)\\s*raw\\s*(-?)%\\}", Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern RAW_END = Pattern.compile("\\{%([-+]?)\\s*endraw\\s*([-+]?)%\\}",
            Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern FLOAT = Pattern.compile(
            "(?<!\\.)(?:\\d+_)*\\d+(?:(?:\\.(?:\\d+_)*\\d+)?[eE][+-]?(?:\\d+_)*\\d+|\\.(?:\\d+_)*\\d+)");
    private static final Pattern INTEGER = Pattern.compile(
            "0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?\\d)*|0(?:_?0)*");
    private static final List<String> OPERATORS =
            List.of("//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                    "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";");

    private final String source;
    private final List<Token> tokens = new ArrayList<>();
    private int pos;
    private int line = 1;

    private Lexer(String source) {
        this.source = source;
    }

    /** All tokens of a source, the last of them EOF. */
    static List<Token> tokens(String source) {
        String text = source.replace("\r\n", "\n").replace('\r', '\n');
        Lexer lexer = new Lexer(text.endsWith("\n") ? text.substring(0, text.length() - 1) : text);
        lexer.root();
        return lexer.tokens;
    }

    private void root() {
        while (pos < source.length()) {
            int begin = nextTag(pos);
            if (begin < 0) {
                data(source.substring(pos));
                pos = source.length();
                break;
            }
            Matcher raw = RAW_BEGIN.matcher(source).region(begin, source.length());
            if (raw.lookingAt()) {
                data(leading(source.substring(pos, begin), raw.group(1), true));
                moveTo(raw.end());
                if (raw.group(2).equals("-")) {
                    skipSpace();
                }
                raw();
                continue;
            }
            char type = source.charAt(begin + 1);
            String sign = begin + 2 < source.length() && "-+".indexOf(source.charAt(begin + 2)) >= 0
                    ? source.substring(begin + 2, begin + 3)
                    : "";
            data(leading(source.substring(pos, begin), sign, type != '{'));
            moveTo(begin + 2 + sign.length());
            switch (type) {
                case '#' -> comment();
                case '{' -> code(Type.PRINT_BEGIN, Type.PRINT_END, "}}");
                default -> code(Type.TAG_BEGIN, Type.TAG_END, "%}");
            }
        }
        add(Type.EOF, "", null);
    }

    private int nextTag(int from) {
        for (int i = source.indexOf('{', from); i >= 0 && i + 1 < source.length(); i = source.indexOf('{', i + 1)) {
            if ("{%#".indexOf(source.charAt(i + 1)) >= 0) {
                return i;
            }
        }
        return -1;
    }

    /** The text before a tag without what the tag strips from it. */
    private String leading(String text, String sign, boolean strips) {
        if (sign.equals("-")) {
            return Unicode.stripEnd(text, Unicode::isSpace);
        }
        if (sign.isEmpty() && strips) {
            int start = text.lastIndexOf('\n') + 1;
            boolean startsLine = start > 0 || pos == 0 || source.charAt(pos - 1) == '\n';
            if (startsLine && Unicode.stripEnd(text.substring(start), Unicode::isSpace).isEmpty()) {
                return text.substring(0, start);
            }
        }
        return text;
    }

    private void data(String text) {
        if (!text.isEmpty()) {
            add(Type.DATA, text, null);
        }
    }

    private void raw() {
        Matcher end = RAW_END.matcher(source);
        if (pos == source.length()) {
            return;
        }
        if (!end.find(pos)) {
            throw fail("Missing end of raw directive");
        }
        data(leading(source.substring(pos, end.start()), end.group(1), true));
        moveTo(end.end());
        afterTag(end.group(2));
    }

    private void comment() {
        if (pos == source.length()) {
            return;
        }
        int end = source.indexOf("#}", pos);
        if (end < 0) {
            throw fail("Missing end of comment tag");
        }
        String sign = end > pos && "-+".indexOf(source.charAt(end - 1)) >= 0 ? source.substring(end - 1, end) : "";
        moveTo(end + 2);
        afterTag(sign);
    }

    /** What the end of a tag or comment takes of the text after it. */
    private void afterTag(String sign) {
        if (sign.equals("-")) {
            skipSpace();
        } else if (sign.isEmpty() && pos < source.length() && source.charAt(pos) == '\n') {
            moveTo(pos + 1);
        }
    }

    private void code(Type begin, Type end, String close) {
        add(begin, "", null);
        Deque<String> open = new ArrayDeque<>();
        while (pos < source.length()) {
            if (open.isEmpty()) {
                String sign = source.startsWith("-" + close, pos) ? "-"
                        : end == Type.TAG_END && source.startsWith("+" + close, pos) ? "+" : "";
                if (source.startsWith(sign + close, pos)) {
                    add(end, "", null);
                    moveTo(pos + sign.length() + close.length());
                    if (end == Type.TAG_END) {
                        afterTag(sign);
                    } else if (sign.equals("-")) {
                        skipSpace();
                    }
                    return;
                }
            }
            token(open);
        }
    }

    private void token(Deque<String> open) {
        int c = source.codePointAt(pos);
        if (Unicode.isSpace(c)) {
            skipSpace();
        } else if (c == '\'' || c == '"') {
            string((char) c);
        } else if (c >= '0' && c <= '9') {
            number();
        } else if (Character.isLetterOrDigit(c) || c == '_' || Character.isUnicodeIdentifierPart(c)) {
            name();
        } else {
            operator(open);
        }
    }

    private void number() {
        Matcher real = FLOAT.matcher(source).region(pos, source.length()).useTransparentBounds(true);
        if (real.lookingAt()) {
            add(Type.FLOAT, real.group(), Double.valueOf(real.group().replace("_", "")));
            moveTo(real.end());
            return;
        }
        Matcher integer = INTEGER.matcher(source).region(pos, source.length());
        if (!integer.lookingAt()) {
            throw fail("invalid number");
        }
        String digits = integer.group().replace("_", "").toLowerCase(Locale.ROOT);
        int radix = digits.startsWith("0x") ? 16 : digits.startsWith("0o") ? 8 : digits.startsWith("0b") ? 2 : 10;
        if (digits.length() > Num.MAX_DIGITS) {
            throw fail("a number of more than " + Num.MAX_DIGITS + " digits");
        }
        add(Type.INTEGER, digits, Num.norm(new BigInteger(radix == 10 ? digits : digits.substring(2), radix)));
        moveTo(integer.end());
    }

    private void name() {
        int end = pos;
        while (end < source.length()) {
            int c = source.codePointAt(end);
            if (c != '_' && !Character.isUnicodeIdentifierPart(c) || Character.isIdentifierIgnorable(c)) {
                break;
            }
            end += Character.charCount(c);
        }
        int first = source.codePointAt(pos);
        if (end == pos || first != '_' && !Character.isUnicodeIdentifierStart(first)) {
            throw fail("Invalid character in identifier");
        }
        add(Type.NAME, source.substring(pos, end), null);
        pos = end;
    }

    private void string(char quote) {
        int end = pos + 1;
        while (end < source.length() && source.charAt(end) != quote) {
            end += source.charAt(end) == '\\' ? 2 : 1;
        }
        if (end >= source.length()) {
            throw fail("unexpected char " + Repr.quote(String.valueOf(quote)) + " at " + pos
                    + ": a string without its end");
        }
        try {
            add(Type.STRING, Unicode.unescape(source.substring(pos + 1, end)), null);
        } catch (Fault fault) {
            throw fail(fault.getMessage());
        }
        moveTo(end + 1);
    }

    private void operator(Deque<String> open) {
        String op = OPERATORS.stream().filter(o -> source.startsWith(o, pos)).findFirst().orElse(null);
        if (op == null) {
            throw fail("unexpected char " + Repr.quote(Character.toString(source.codePointAt(pos))) + " at " + pos);
        }
        switch (op) {
            case "{" -> open.push("}");
            case "(" -> open.push(")");
            case "[" -> open.push("]");
            case "}", ")", "]" -> {
                if (open.isEmpty()) {
                    throw fail("unexpected '" + op + "'");
                }
                String expected = open.pop();
                if (!expected.equals(op)) {
                    throw fail("unexpected '" + op + "', expected '" + expected + "'");
                }
            }
            default -> {}
        }
        add(Type.OPERATOR, op, null);
        pos += op.length();
    }

    private void skipSpace() {
        int end = pos;
        while (end < source.length() && Unicode.isSpace(source.charAt(end))) {
            end++;
        }
        moveTo(end);
    }

    private void moveTo(int end) {
        for (; pos < end; pos++) {
            if (source.charAt(pos) == '\n') {
                line++;
            }
        }
    }

    private void add(Type type, String text, Object value) {
        tokens.add(new Token(type, text, value, line));
    }

    private TemplateException fail(String message) {
        return new TemplateException(Kind.SYNTAX, message, line, null);
    }
}
