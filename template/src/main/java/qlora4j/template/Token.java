package qlora4j.template;

/**
 * A piece of a template.
 *
 * @param type  what it is
 * @param text  the operator, name, data or (decoded) string
 * @param value the number of an integer or float
 * @param line  its line, from 1
 */
record Token(Type type, String text, Object value, int line) {

    enum Type {
        DATA, PRINT_BEGIN, PRINT_END, TAG_BEGIN, TAG_END, NAME, STRING, INTEGER, FLOAT, OPERATOR, EOF
    }

    boolean isName(String name) {
        return type == Type.NAME && text.equals(name);
    }

    boolean isOperator(String op) {
        return type == Type.OPERATOR && text.equals(op);
    }

    String describe() {
        return switch (type) {
            case DATA -> "template data / text";
            case PRINT_BEGIN -> "begin of print statement";
            case PRINT_END -> "end of print statement";
            case TAG_BEGIN -> "begin of statement block";
            case TAG_END -> "end of statement block";
            case EOF -> "end of template";
            default -> text;
        };
    }
}
