package qlora4j.train.data;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import qlora4j.template.TemplateException;

/**
 * Tells whose each part of a rendered conversation is, to explain it. A message's part begins where the text of those
 * before it ends, if the template writes these the same way alone; its content is looked for in that part as it was
 * given, or without the white space around it. What a template changes otherwise counts as the template's.
 */
final class ChatOrigins {
    private ChatOrigins() {
    }

    private record Place(int start, int end, String role, String field) {
    }

    static Example refine(ChatRenderer chat, Chat conversation, Example example) {
        String text = example.text();
        List<Place> places = places(chat, conversation, text);
        TreeSet<Integer> borders = new TreeSet<>();
        places.forEach(p -> {
            borders.add(p.start);
            borders.add(p.end);
        });
        List<Segment> refined = new ArrayList<>();
        int start = 0;
        for (Segment segment : example.segments()) {
            int end = start + segment.text().length();
            for (int at = start; at < end;) {
                Integer border = borders.higher(at);
                int to = border == null ? end : Math.min(border, end);
                Place place = at(places, at);
                refined.add(new Segment(text.substring(at, to), place.role, place.field, segment.trained()));
                at = to;
            }
            start = end;
        }
        return new Example(refined, example.apart(), example.specials(), example.whole(), example.trailing(),
                example.spaced());
    }

    private static Place at(List<Place> places, int index) {
        Place found = new Place(0, 0, Segment.PROMPT, null);
        for (Place place : places) {
            if (place.start <= index && index < place.end) {
                found = place.field == null && found.field != null ? found : place;
            }
        }
        return found;
    }

    private static List<Place> places(ChatRenderer chat, Chat conversation, String text) {
        List<Place> places = new ArrayList<>();
        int begin = 0;
        int count = conversation.messages().size();
        for (int k = 0; k < count; k++) {
            int end = k == count - 1 ? text.length() : end(chat, conversation.first(k + 1), text, begin);
            String role = conversation.role(k);
            int content = -1;
            String value = "";
            if (conversation.messages().get(k).get(Chat.CONTENT) instanceof String given && !given.isBlank()) {
                value = given;
                content = text.indexOf(value, begin);
                if (content < 0) {
                    value = given.strip();
                    content = text.indexOf(value, begin);
                }
            }
            if (content >= 0 && (end < 0 || content + value.length() <= end)) {
                places.add(new Place(content, content + value.length(), role, Chat.CONTENT));
                end = Math.max(end, content + value.length());
            }
            end = end < 0 ? begin : end;
            places.add(new Place(begin, end, role, null));
            begin = end;
        }
        return places;
    }

    /** Where the first messages end in the text of all, or -1 where the template writes them otherwise alone. */
    private static int end(ChatRenderer chat, Chat first, String text, int begin) {
        try {
            String alone = chat.render(first, false).text();
            return text.startsWith(alone) && alone.length() >= begin ? alone.length() : -1;
        } catch (TemplateException refusedAlone) {
            return -1;
        }
    }
}
