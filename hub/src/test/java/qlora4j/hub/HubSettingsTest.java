package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.net.Proxy;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The variables of huggingface_hub, and names of models. */
class HubSettingsTest {
    @TempDir
    private Path home;

    @Test
    void withoutVariables() throws IOException {
        HubSettings s = HubSettings.of(Map.of(), home);
        assertThat(s.endpoint()).isEqualTo(URI.create("https://huggingface.co"));
        assertThat(s.cache()).isEqualTo(home.resolve(".cache/huggingface/hub"));
        assertThat(s.token()).isNull();
        assertThat(s.offline()).isFalse();
    }

    @Test
    void placesOfTheCache() throws IOException {
        assertThat(HubSettings.of(Map.of("XDG_CACHE_HOME", "/x"), home).cache())
                .isEqualTo(Path.of("/x/huggingface/hub"));
        assertThat(HubSettings.of(Map.of("HF_HOME", "~/hf"), home).cache()).isEqualTo(home.resolve("hf/hub"));
        assertThat(HubSettings.of(Map.of("HF_HOME", "$BASE/${MORE}", "BASE", "/b", "MORE", "m"), home).cache())
                .isEqualTo(Path.of("/b/m/hub"));
        assertThat(HubSettings.of(Map.of("HF_HOME", "/a", "HF_HUB_CACHE", "/c"), home).cache())
                .isEqualTo(Path.of("/c"));
    }

    @Test
    void tokens() throws IOException {
        Files.createDirectories(home.resolve(".cache/huggingface"));
        Files.writeString(home.resolve(".cache/huggingface/token"), " hf_file\n");
        assertThat(HubSettings.of(Map.of(), home).token()).isEqualTo("hf_file");
        HubSettings s = HubSettings.of(Map.of("HF_TOKEN", "hf_env"), home);
        assertThat(s.token()).isEqualTo("hf_env");
        assertThat(s.toString()).doesNotContain("hf_env");
        assertThat(HubSettings.of(Map.of("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), home).token()).isNull();
        Files.writeString(home.resolve("other"), "hf_other");
        assertThat(HubSettings.of(Map.of("HF_TOKEN_PATH", "~/other"), home).token()).isEqualTo("hf_other");
        assertThatThrownBy(() -> HubSettings.of(Map.of("HF_TOKEN", "a b"), home)).hasMessageContaining("HF_TOKEN")
                .message().doesNotContain("a b");
    }

    @ParameterizedTest
    @ValueSource(strings = {"1", "ON", "yes", "True"})
    void offline(String value) throws IOException {
        assertThat(HubSettings.of(Map.of("HF_HUB_OFFLINE", value), home).offline()).isTrue();
        assertThat(HubSettings.of(Map.of("TRANSFORMERS_OFFLINE", value), home).offline()).isTrue();
        assertThat(HubSettings.of(Map.of("HF_HUB_OFFLINE", "0"), home).offline()).isFalse();
    }

    @ParameterizedTest
    @ValueSource(strings = {"huggingface.co", "file:///x", "http://", "http://a b", "https://u:p@h", "https://h?x"})
    void endpointsThatAreNone(String endpoint) {
        assertThatThrownBy(() -> HubSettings.of(Map.of("HF_ENDPOINT", endpoint), home))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("HF_ENDPOINT");
    }

    @Test
    void endpointsAndTimeouts() throws IOException {
        assertThat(HubSettings.of(Map.of("HF_ENDPOINT", "http://localhost:80/mirror/"), home).endpoint())
                .isEqualTo(URI.create("http://localhost:80/mirror"));
        assertThat(HubSettings.of(Map.of("HF_HUB_DOWNLOAD_TIMEOUT", "5"), home).timeout()).hasSeconds(5);
        assertThatThrownBy(() -> HubSettings.of(Map.of("HF_HUB_DOWNLOAD_TIMEOUT", "soon"), home))
                .hasMessageContaining("HF_HUB_DOWNLOAD_TIMEOUT");
    }

    @Test
    void proxies() throws IOException {
        HubSettings s = HubSettings.of(Map.of("https_proxy", "proxy.example:3128", "ALL_PROXY", "http://all:1",
                "NO_PROXY", "localhost, .inside.example"), home);
        assertThat(s.proxies().select(URI.create("https://huggingface.co")).toString()).contains("proxy.example")
                .contains("3128");
        assertThat(s.proxies().select(URI.create("http://huggingface.co")).toString()).contains("all");
        assertThat(s.proxies().select(URI.create("https://hub.inside.example"))).containsExactly(Proxy.NO_PROXY);
        assertThat(HubSettings.of(Map.of(), home).proxies().select(URI.create("https://h")))
                .containsExactly(Proxy.NO_PROXY);
        assertThatThrownBy(() -> HubSettings.of(Map.of("HTTPS_PROXY", "http://user:secret@h"), home))
                .hasMessageContaining("HTTPS_PROXY").message().doesNotContain("secret");
        assertThatThrownBy(() -> HubSettings.of(Map.of("HTTPS_PROXY", "socks5://h"), home))
                .hasMessageContaining("HTTPS_PROXY");
    }

    @Test
    void namesOfModels() {
        assertThat(RepoId.parse("owner/na.me-1_2@refs/pr/3")).isEqualTo(new RepoId("owner/na.me-1_2", "refs/pr/3"));
        assertThat(RepoId.parse("owner/name")).hasToString("owner/name").extracting(RepoId::revision).isEqualTo("main");
        assertThat(RepoId.looksLike("owner/name@v1")).isTrue();
    }

    @ParameterizedTest
    @ValueSource(strings = {"name", "a/b/c", "./model", "../model", "/a/b", "a/..", "a/b@", "a/b@../c", "a/b.", "-a/b",
            "a--b/c", "a/b.git", "a/b c", "~/x", "a\\b", "a/b@x\0y", ""})
    void namesThatAreNone(String text) {
        assertThat(RepoId.looksLike(text)).isFalse();
        assertThatThrownBy(() -> RepoId.parse(text)).isInstanceOf(IllegalArgumentException.class);
    }
}
