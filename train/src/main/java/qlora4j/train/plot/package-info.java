/**
 * Charts as SVG texts without a library: lines and bars over two axes. Colours and strokes come from {@code plot.css},
 * which knows light and dark; a page includes it once, a picture of its own carries it.
 */
package qlora4j.train.plot;
