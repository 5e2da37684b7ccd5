/** Pictures of what 4-bit quantization does to a model's weights. */
package qlora4j.train.pictures;
