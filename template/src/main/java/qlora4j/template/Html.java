package qlora4j.template;

import qlora4j.template.Values.Markup;

/** HTML escaping and texts that are marked as escaped. */
final class Html {

    private Html() {
    }

    /** A string value escaped, or as it is where it is marked as safe. */
    static String escape(Object string) {
        return string instanceof Markup markup ? markup.text() : escape((String) string);
    }

    static String escape(String text) {
        StringBuilder out = new StringBuilder(text.length());
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '&' -> out.append("&amp;");
                case '<' -> out.append("&lt;");
                case '>' -> out.append("&gt;");
                case '\'' -> out.append("&#39;");
                case '"' -> out.append("&#34;");
                default -> out.append(c);
            }
        }
        return out.toString();
    }

    /** A text, marked as safe where the other value is. */
    static Object like(Object other, String text) {
        return other instanceof Markup ? new Markup(text) : text;
    }

    /** The text without comments and tags, its white space collapsed and its common entities resolved. */
    static String stripTags(String text) {
        String bare = text.replaceAll("(?s)<!--.*?-->", "").replaceAll("(?s)<.*?>", "");
        String collapsed = String.join(" ", bare.strip().split("\\s+"));
        return collapsed.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'").replace("&#34;", "\"")
                .replace("&quot;", "\"").replace("&amp;", "&");
    }
}
