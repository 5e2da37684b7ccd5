/**
 * Data of supervised fine-tuning, from a file to the arrays of a step: {@link qlora4j.train.data.Rows} reads rows,
 * {@link qlora4j.train.data.PromptTemplate} splits each into a prompt and a completion,
 * {@link qlora4j.train.data.Encoder} makes token ids of them and cuts what is too long, and
 * {@link qlora4j.train.data.Batches} orders them and lays them out without padding.
 * {@link qlora4j.train.data.MetricsWriter} writes what the steps measured.
 */
package qlora4j.train.data;
