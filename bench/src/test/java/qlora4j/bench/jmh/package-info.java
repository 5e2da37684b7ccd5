/**
 * JMH benchmarks of what the project computes, beside OpenBLAS and Jlama in the same JVM. Run by {@code bench/jmh};
 * {@code mvn verify} compiles them and runs each once on tiny sizes.
 */
package qlora4j.bench.jmh;
