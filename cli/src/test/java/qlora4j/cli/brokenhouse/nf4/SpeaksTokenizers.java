package qlora4j.cli.brokenhouse.nf4;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;

record SpeaksTokenizers(HuggingFaceTokenizer tokenizer) {
}
