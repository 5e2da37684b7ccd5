/**
 * The conformance kit: runs whatever it finds in a bundle of recorded numbers against this implementation, and says of
 * each record how far the two are apart. {@link qlora4j.verify.Conformance} is the entry.
 */
package qlora4j.verify;
