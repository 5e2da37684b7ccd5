/** What a training run leaves for people to look at: {@code report.html}, and event files for TensorBoard. */
package qlora4j.train.report;
