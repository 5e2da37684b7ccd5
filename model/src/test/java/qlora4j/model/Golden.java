package qlora4j.model;

import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Path;

/** The recorded files among this module's test resources. */
final class Golden {
    private Golden() {
    }

    static Path path(String name) {
        URL url = Golden.class.getResource("/golden/" + name);
        if (url == null) {
            throw new IllegalArgumentException("no recorded file " + name);
        }
        try {
            return Path.of(url.toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }
}
