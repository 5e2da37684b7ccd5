/**
 * Test vectors of the specification ({@code verify/SPEC.md}), made by the scalar backend, and the verdict on another
 * implementation's results: which operation is the first to differ, how, and what mistake explains it.
 */
package qlora4j.verify.vectors;
