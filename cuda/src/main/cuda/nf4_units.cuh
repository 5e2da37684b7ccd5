// How a warp gets 4-bit weights whose constants are quantized too, in blocks of 64: by units of 16 rows and 256 columns. They
// are copied to places of the warp's own in shared memory, a few ahead, and decoded in registers by a table in shared
// memory. `in` is a multiple of 256, out * in / 64 fits into 32 bits. Nobody but the warp waits for its units.
//
// A lane, g = lane / 4 and t = lane % 4, has rows g and g + 8 of a unit and, of each chunk of 64 columns, those from 16 t to
// 16 t + 15. What counts here is how few instructions a pair of weights takes: two, one that puts an address together and
// one that reads the pair.
#pragma once
#include "exact16.cuh"
#include "tile.cuh"
#include "ptx.cuh"


// In the gaps of the table of pairs (exact16.cuh) are the codes of units on their way, of MOST_UNITS: rows of 128 bytes,
// pieces of 16 bytes of row r in the order p ^ r % 8, which spreads the banks.
#define MOST_UNITS (256 / TILE_ROWS)
// Of a unit, elsewhere: a word of constants' codes for each row, absmax2 for each row, the 64 constants by rows.
#define AT_SCALES (WARP * 4)
#define CONSTANT_BYTES (AT_SCALES + TILE_ROWS * CHUNKS * 4)

// Where unit i is.
struct Place {
    unsigned char *codes, *constants;

    __device__ __forceinline__ Place(unsigned char *table, unsigned char *all_constants, int i)
            : codes(table + ROW_BYTES / 2 + i * TILE_ROWS * ROW_BYTES), constants(all_constants + i * CONSTANT_BYTES) {
    }
};

// Where a lane copies from: 16 rows of W [out, in]. Rows too far are taken to be the last.
struct Source {
    const unsigned char *rows[4];   // rows 4 i + lane / 8, piece lane % 8
    const unsigned char *constants; // lanes 0 to 15: absmax, 16 to 31: absmax2, of row lane % 16
    unsigned int block;             // that row's first
    float offset;

    __device__ __forceinline__ void begin(const unsigned char *packed, const Constants &c, int out, int in, int row) {
        int lane = threadIdx.x % WARP;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            rows[i] = packed + (long)min(row + 4 * i + lane / 8, out - 1) * (in / 2) + lane % 8 * 16;
        }
        block = min(row + lane % TILE_ROWS, out - 1) * (unsigned int)(in / CHUNK);
        constants = lane < TILE_ROWS ? (const unsigned char *)c.absmax : (const unsigned char *)c.absmax2;
        offset = *c.offset;
    }

    // Asks for the unit from a column on.
    __device__ __forceinline__ void request(const Place &place, int column) const {
        int lane = threadIdx.x % WARP;
        unsigned char *to = place.codes + lane / 8 * ROW_BYTES;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int piece = (lane ^ lane / 8 ^ 4 * i) % 8;
            copy16(shared_address(to + 4 * i * ROW_BYTES + piece * 16), rows[i] + column / 2, true);
        }
        unsigned int b = block + column / CHUNK;
        copy4(shared_address(place.constants + lane * 4),
                constants + (lane < TILE_ROWS ? b : b >> LOG_NESTED_BLOCKSIZE << 2), true);
    }
};

// A unit that has arrived, in a lane's registers.
struct Unit {
    uint2 words[CHUNKS][2];             // of rows g and g + 8
    float4 scales[2];

    __device__ __forceinline__ float scale(int chunk, int h) const {
        return chunk == 0 ? scales[h].x : chunk == 1 ? scales[h].y : chunk == 2 ? scales[h].z : scales[h].w;
    }

    // All lanes are through with the place when it returns.
    __device__ __forceinline__ void take(const Place &place, const float *map, float offset) {
        int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
        unsigned int codes = *(const unsigned short *)(place.constants + lane * 2);
        float second = *(const float *)(place.constants + TILE_ROWS * 4 + lane / 2 * 4);
        float a = *(const float *)((const char *)map + (codes << 2 & 0x3fc));
        float b = *(const float *)((const char *)map + (codes >> 6 & 0x3fc));
        *(float2 *)(place.constants + AT_SCALES + lane * 8) = make_float2(__fadd_rn(__fmul_rn(a, second), offset),
                __fadd_rn(__fmul_rn(b, second), offset));
        const unsigned char *from = place.codes + g * ROW_BYTES + t % 2 * 8;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const unsigned char *at = from + ((t / 2 ^ g) * 16 ^ c * 32);
            words[c][0] = *(const uint2 *)at;
            words[c][1] = *(const uint2 *)(at + 8 * ROW_BYTES);
        }
        __syncwarp();
        scales[0] = ((const float4 *)(place.constants + AT_SCALES))[g];
        scales[1] = ((const float4 *)(place.constants + AT_SCALES))[g + 8];
        __syncwarp();
    }
};
