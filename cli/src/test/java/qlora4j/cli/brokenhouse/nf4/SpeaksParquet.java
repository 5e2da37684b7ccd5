package qlora4j.cli.brokenhouse.nf4;

import dev.hardwood.reader.ParquetFileReader;

record SpeaksParquet(ParquetFileReader reader) {
}
