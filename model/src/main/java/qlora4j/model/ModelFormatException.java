package qlora4j.model;

import java.io.IOException;
import java.nio.file.Path;

/** A model directory, or a file of one, that cannot be used. The message names the file and says what is expected. */
public final class ModelFormatException extends IOException {
    private static final long serialVersionUID = 1L;

    ModelFormatException(Path file, String problem) {
        super(file + ": " + problem);
    }

    ModelFormatException(Path file, String problem, Throwable cause) {
        super(file + ": " + problem, cause);
    }
}
