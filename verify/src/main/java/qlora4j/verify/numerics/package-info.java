/**
 * The numeric contract: how far each operation's results are from those of the definition in float64, measured on a
 * backend, and how far they may be ({@link qlora4j.verify.numerics.Result}).
 */
package qlora4j.verify.numerics;
