package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PipedInputStream;
import java.io.PipedOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.jline.terminal.Size;
import org.jline.terminal.Terminal;
import org.jline.terminal.TerminalBuilder;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.model.CausalLm;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.ChatSession;
import qlora4j.model.ChatSession.End;
import qlora4j.model.ChatSession.Reply;
import qlora4j.model.DecoderLoader;
import qlora4j.model.Message;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;

/** A conversation: its session, its terminal, its command. */
class ChatTest {
    @TempDir
    private Path folder;
    private Path model;

    @BeforeEach
    void files() throws IOException {
        model = TinyModel.write(folder.resolve("model"), 7);
    }

    @Test
    void eachTurnAnswersTheWholeConversation() throws IOException {
        try (Backend cpu = Backends.open("cpu", null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA);
                ChatSession chat = new ChatSession(lm)) {
            chat.system("Be brief.");
            StringBuilder streamed = new StringBuilder();
            Reply first = chat.say("Hello", GenerateOptions.greedy(6), streamed::append);
            assertThat(streamed).hasToString(first.text());
            assertThat(first.reusedTokens()).isZero();
            assertThat(first.end()).isEqualTo(first.newTokens() == 6 ? End.LENGTH : End.FINISHED);
            Reply second = chat.say("More", GenerateOptions.greedy(6), _ -> {
            });
            assertThat(second.reusedTokens()).isBetween(1, first.promptTokens() + first.newTokens());
            assertThat(chat.messages()).extracting(Message::role).containsExactly("system", "user", "assistant", "user",
                    "assistant");
            List<Message> asked = chat.messages().subList(0, 4);
            int[] prompt = lm.tokenizer().encode(lm.tokenizer().renderChat(asked, true), false);
            StringBuilder alone = new StringBuilder();
            lm.generate(CausalLm.BASE, prompt, GenerateOptions.greedy(6), alone::append);
            assertThat(second.text()).isEqualTo(alone.toString());
            chat.reset();
            assertThat(chat.messages()).extracting(Message::content).containsExactly("Be brief.");
            assertThatIllegalArgumentException().isThrownBy(() -> chat.use("none")).withMessageContaining("none");
            assertThat(chat.adapter()).isEqualTo(CausalLm.BASE);
        }
    }

    @Test
    void anAnswerCanBeStoppedAndAConversationCanBeTooLong() throws IOException {
        try (Backend cpu = Backends.open("cpu", null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA);
                ChatSession chat = new ChatSession(lm)) {
            AtomicInteger pieces = new AtomicInteger();
            Reply cut = chat.say("Hello", GenerateOptions.greedy(40), _ -> {
                if (pieces.incrementAndGet() == 2) {
                    chat.stop();
                }
            });
            assertThat(cut.end()).isEqualTo(End.STOPPED);
            assertThat(cut.newTokens()).isEqualTo(2);
            assertThat(chat.messages()).hasSize(2);
            int positions = lm.decoder().config().maxPositions();
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> chat.say("Say ".repeat(positions), GenerateOptions.greedy(4), _ -> {
                    })).withMessageContaining("the model was made for " + positions);
            assertThat(chat.messages()).as("what was refused is not said").hasSize(2);
            Reply after = chat.say("Go on", GenerateOptions.greedy(3), _ -> {
            });
            assertThat(after.end()).as("a stop is for one answer").isNotEqualTo(End.STOPPED);
        }
    }

    @Test
    void takesTheLinesOfAPipe() {
        Ran ran = Ran.piped("""
                Hello

                two \\
                lines
                /adapter
                /adapter none
                /system Be brief.
                /what
                //slash
                /reset
                /help
                /quit
                never said
                """, "chat", "--model", model.toString(), "--max-new-tokens", "3", "--temperature", "0", "--verbose",
                "--threads", "2");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).doesNotContain("> ");
        assertThat(ran.err().lines().filter(l -> l.contains(" prompt tokens, "))).as("answers").hasSize(3);
        assertThat(ran.err()).containsSubsequence("adapter: base; there are [base]",
                "no adapter is called none", "system: Be brief.", "there is no command /what", "a new conversation",
                "/quit");
    }

    /** The limit ends a wait for keys that would never come. */
    @Test
    @Timeout(120)
    void aTerminalEditsCompletesAndInterrupts() throws IOException {
        PipedOutputStream keys = new PipedOutputStream();
        ByteArrayOutputStream screen = new ByteArrayOutputStream();
        Terminal terminal = TerminalBuilder.builder().system(false).type("xterm").encoding(StandardCharsets.UTF_8)
                .streams(new PipedInputStream(keys), screen).build();
        terminal.setSize(Size.of(80, 24));
        try (ChatConsole console = new ChatConsole.OnTerminal(terminal,
                Map.of("/adapter", List.of("pirate"), "/quit", List.of()))) {
            keys.write("Hella\bo \"wor\\ld' ü\r".getBytes(StandardCharsets.UTF_8));
            assertThat(console.readLine("> ")).isEqualTo("Hello \"wor\\ld' ü");
            keys.write("/ad\tpi\t\r".getBytes(StandardCharsets.UTF_8));
            assertThat(console.readLine("> ").strip()).isEqualTo("/adapter pirate");
            AtomicInteger interrupts = new AtomicInteger();
            console.onInterrupt(interrupts::incrementAndGet);
            terminal.raise(Terminal.Signal.INT);
            assertThat(interrupts).hasValue(1);
            keys.write(new byte[]{'\u0004'});
            assertThat(console.readLine("> ")).as("Ctrl-D").isNull();
        }
        assertThat(screen.toString(StandardCharsets.UTF_8)).contains("> ");
    }
}
