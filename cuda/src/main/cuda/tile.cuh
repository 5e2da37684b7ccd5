// Units of W in 4 bits, as kernels divide it: a tile's rows are those of the tensor cores' first operand, and a constant is that of
// a chunk of columns or more.
#pragma once

#define TILE_ROWS 16
#define UNIT 256
#define LOG_CHUNK 6
#define CHUNK (1 << LOG_CHUNK)
#define CHUNKS (UNIT / CHUNK)
