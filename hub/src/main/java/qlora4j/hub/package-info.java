/**
 * Models and adapters from the Hugging Face hub, kept in the cache that Python's {@code huggingface_hub} uses too.
 *
 * <p>{@link qlora4j.hub.Hub} is the entry: {@code cached} looks into the cache alone, {@code pull} asks the network.
 * {@link qlora4j.hub.HubSettings} holds what the environment says ({@code HF_HOME}, {@code HF_ENDPOINT},
 * {@code HF_TOKEN}, {@code HF_HUB_OFFLINE} and their like, as huggingface_hub 2.4 reads them).
 *
 * <p>Nothing that a server sends is trusted as a path, a length or a content: names are checked before they become
 * paths, and a file enters the cache only when its length and its checksum are those that the hub names.
 */
package qlora4j.hub;
