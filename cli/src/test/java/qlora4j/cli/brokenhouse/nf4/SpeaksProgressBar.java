package qlora4j.cli.brokenhouse.nf4;

import me.tongfei.progressbar.ProgressBar;

record SpeaksProgressBar(ProgressBar bar) {
}
