package qlora4j.cli.brokenhouse.verify;

import qlora4j.cli.brokenhouse.cli.Top;

record ReachesCli(Top top) {
}
