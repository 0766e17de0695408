/* The passes over memory of a training step on a CPU: compact weights to dense memory, a dense
 * gradient's active entries into the compact one, cross-entropy, and Adam. The files beside this one
 * call them; what each means stands at its twin in `raysparse/kernels/torch/`.
 *
 * Of these torch makes several passes, and for the first two a list of places; here each is one,
 * about as fast as memory is. A group of 1,024 blocks finds its values by its base, so groups go to
 * threads as they come. Numbers are bfloat16 (the upper half of a float32) or float32. AVX-512 reads
 * and writes sixteen blocks at a time by their bits, other processors block for block. Nothing is
 * allocated, and nothing can fail.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define GROUP 1024
#define WORD 32
#define PORTION 65536 /* weights of a portion of Adam, without ages */

typedef float f32;
typedef uint16_t bf16;

static inline f32 f32_of_f32(f32 x) { return x; }

static inline f32 f32_of_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    f32 value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline bf16 bf16_of_f32(f32 x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bf16)(x != x ? 0x7fc0 : nearest);
}

/* a * b + c, rounded once where the processor can. */
static inline f32 mad(f32 a, f32 b, f32 c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* One group of blocks of `size` numbers, any kind: bit after bit of its words. */
#define EXPAND_PLAIN(NAME, FROM, TO, CONVERT)                                                            \
    static void NAME(const FROM *values, const uint32_t *mask, TO *out, int64_t blocks, int64_t size) {  \
        memset(out, 0, blocks * size * sizeof(TO));                                                      \
        for (int64_t first = 0; first < blocks; first += WORD)                                           \
            for (uint32_t left = mask[first / WORD]; left; left &= left - 1, values += size) {           \
                TO *to = out + (first + __builtin_ctz(left)) * size;                                     \
                for (int64_t i = 0; i < size; i++) to[i] = CONVERT(values[i]);                           \
            }                                                                                            \
    }

#define COMPACT_PLAIN(NAME, FROM, TO, READ, TOTAL, CONVERT)                                                   \
    static void NAME(const FROM *dense, const uint32_t *mask, TO *grad, int64_t blocks, int64_t size) {       \
        for (int64_t first = 0; first < blocks; first += WORD)                                                \
            for (uint32_t left = mask[first / WORD]; left; left &= left - 1, grad += size) {                  \
                const FROM *from = dense + (first + __builtin_ctz(left)) * size;                              \
                for (int64_t i = 0; i < size; i++) grad[i] = CONVERT(TOTAL(grad[i]) + READ(from[i]));         \
            }                                                                                                 \
    }

EXPAND_PLAIN(expand_plain_f32_f32, f32, f32, f32_of_f32)
EXPAND_PLAIN(expand_plain_f32_bf16, f32, bf16, bf16_of_f32)
EXPAND_PLAIN(expand_plain_bf16_bf16, bf16, bf16, )
COMPACT_PLAIN(compact_plain_f32_f32, f32, f32, f32_of_f32, f32_of_f32, f32_of_f32)
COMPACT_PLAIN(compact_plain_bf16_f32, bf16, f32, f32_of_bf16, f32_of_f32, f32_of_f32)
COMPACT_PLAIN(compact_plain_bf16_bf16, bf16, bf16, f32_of_bf16, f32_of_bf16, bf16_of_f32)

#ifdef __AVX512F__
static inline __m256i sixteen_bf16_of(__m512 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    nearest = _mm512_mask_mov_epi32(nearest, is_nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(nearest, 16));
}

static inline __m512 sixteen_of_bf16(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

/* Whole sixteens of a group of single weights; `PUT` and `GET` one sixteen. What is left over, and
 * blocks of several numbers, go the plain way. */
#define EXPAND(NAME, PLAIN, TO, PUT)                                                                     \
    static void NAME(const f32 *values, const uint32_t *mask, TO *out, int64_t blocks, int64_t size) {   \
        if (size != 1 || blocks % WORD) {                                                                \
            PLAIN(values, mask, out, blocks, size);                                                      \
            return;                                                                                      \
        }                                                                                                \
        for (int64_t first = 0; first < blocks; first += 16) {                                           \
            uint32_t bits = mask[first / WORD] >> first % WORD & 0xffff;                                 \
            PUT(out + first, _mm512_maskz_expandloadu_ps((__mmask16)bits, values));                      \
            values += __builtin_popcount(bits);                                                          \
        }                                                                                                \
    }

#define COMPACT(NAME, PLAIN, FROM, GET)                                                                  \
    static void NAME(const FROM *dense, const uint32_t *mask, f32 *grad, int64_t blocks, int64_t size) { \
        if (size != 1 || blocks % WORD) {                                                                \
            PLAIN(dense, mask, grad, blocks, size);                                                      \
            return;                                                                                      \
        }                                                                                                \
        for (int64_t first = 0; first < blocks; first += 16) {                                           \
            uint32_t bits = mask[first / WORD] >> first % WORD & 0xffff;                                 \
            int count = __builtin_popcount(bits);                                                        \
            __mmask16 front = (__mmask16)((1u << count) - 1);                                            \
            __m512 added = _mm512_maskz_compress_ps((__mmask16)bits, GET(dense + first));                \
            _mm512_mask_storeu_ps(grad, front, _mm512_add_ps(_mm512_maskz_loadu_ps(front, grad), added)); \
            grad += count;                                                                               \
        }                                                                                                \
    }

#define PUT_BF16(to, x) _mm256_storeu_si256((__m256i *)(to), sixteen_bf16_of(x))
EXPAND(expand_group_f32_f32, expand_plain_f32_f32, f32, _mm512_storeu_ps)
EXPAND(expand_group_f32_bf16, expand_plain_f32_bf16, bf16, PUT_BF16)
COMPACT(compact_group_f32_f32, compact_plain_f32_f32, f32, _mm512_loadu_ps)
COMPACT(compact_group_bf16_f32, compact_plain_bf16_f32, bf16, sixteen_of_bf16)
#else
#define expand_group_f32_f32 expand_plain_f32_f32
#define expand_group_f32_bf16 expand_plain_f32_bf16
#define compact_group_f32_f32 compact_plain_f32_f32
#define compact_group_bf16_f32 compact_plain_bf16_f32
#endif
#define expand_group_bf16_bf16 expand_plain_bf16_bf16
#define compact_group_bf16_bf16 compact_plain_bf16_bf16

/* CALL for every group of a matrix, which says where its dense and its compact numbers begin. */
#define OVER_GROUPS(CALL)                                                                                \
    _Pragma("omp parallel for schedule(static) num_threads(threads)")                                    \
    for (int64_t group = 0; group < (blocks + GROUP - 1) / GROUP; group++) {                             \
        int64_t first = group * GROUP, here = least(GROUP, blocks - first), dense_at = first * size,     \
                compact_at = bases[group] * size;                                                        \
        const uint32_t *words = mask + first / WORD;                                                     \
        CALL;                                                                                            \
    }

#define MATRIX(KIND, FROM, TO)                                                                           \
    void expand_##KIND(const FROM *values, const uint32_t *mask, const int32_t *bases, TO *out,          \
                       int64_t blocks, int64_t size, int threads) {                                      \
        OVER_GROUPS(expand_group_##KIND(values + compact_at, words, out + dense_at, here, size))         \
    }

#define GRADIENT(KIND, FROM, TO)                                                                         \
    void compact_##KIND(const FROM *dense, const uint32_t *mask, const int32_t *bases, TO *grad,         \
                        int64_t blocks, int64_t size, int threads) {                                     \
        OVER_GROUPS(compact_group_##KIND(dense + dense_at, words, grad + compact_at, here, size))        \
    }

MATRIX(f32_f32, f32, f32)
MATRIX(f32_bf16, f32, bf16)
MATRIX(bf16_bf16, bf16, bf16)
GRADIENT(f32_f32, f32, f32)
GRADIENT(bf16_f32, bf16, f32)
GRADIENT(bf16_bf16, bf16, bf16)

/* total += more. */
void accumulate_bf16_f32(const bf16 *restrict more, f32 *restrict total, int64_t n, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) total[i] += f32_of_bf16(more[i]);
}

/* e^x for x of at most about 0, to some 2^-23 of its value (a polynomial of Cephes); NaN stays. */
static inline f32 exponential(f32 x) {
    f32 whole = rintf(x * 1.44269504088896341f);
    f32 rest = mad(whole, 2.12194440e-4f, mad(whole, -0.693359375f, x));
    f32 p = mad(1.9875691500e-4f, rest, 1.3981999507e-3f);
    p = mad(p, rest, 8.3334519073e-3f);
    p = mad(p, rest, 4.1665795894e-2f);
    p = mad(p, rest, 1.6666665459e-1f);
    p = mad(p, rest, 5.0000001201e-1f);
    p = mad(p * rest, rest, rest + 1);
    int32_t bits = ((int32_t)(x >= -87 ? whole : 0) + 127) << 23; /* NaN is no integer */
    f32 power;
    memcpy(&power, &bits, 4);
    return x < -87 ? 0 : p * power;
}

/* The cross-entropy of each row of logits, which become its gradient. A row is read three times,
 * from a cache. The largest logit goes before anything is added: beside it a logarithm is lost. */
#define CROSS_ENTROPY(NAME, T, READ, CONVERT)                                                            \
    void cross_entropy_##NAME(T *logits, const int64_t *targets, f32 *losses, int64_t rows,              \
                              int64_t columns, int threads) {                                            \
        _Pragma("omp parallel for schedule(static) num_threads(threads)")                                \
        for (int64_t row = 0; row < rows; row++) {                                                       \
            T *restrict x = logits + row * columns;                                                      \
            f32 most = -INFINITY;                                                                        \
            _Pragma("omp simd reduction(max : most)")                                                    \
            for (int64_t i = 0; i < columns; i++) most = READ(x[i]) > most ? READ(x[i]) : most;          \
            double sum = 0; /* of sums in float32, which lose nothing over so few */                     \
            for (int64_t first = 0; first < columns; first += GROUP) {                                   \
                f32 some = 0;                                                                            \
                _Pragma("omp simd reduction(+ : some)")                                                  \
                for (int64_t i = first; i < least(first + GROUP, columns); i++)                          \
                    some += exponential(READ(x[i]) - most);                                              \
                sum += some;                                                                             \
            }                                                                                            \
            f32 share = (f32)(1 / sum), below = READ(x[targets[row]]) - most;                            \
            losses[row] = (f32)log(sum) - below;                                                         \
            _Pragma("omp simd")                                                                          \
            for (int64_t i = 0; i < columns; i++) x[i] = CONVERT(exponential(READ(x[i]) - most) * share); \
            x[targets[row]] = CONVERT(exponential(below) * share - 1);                                   \
        }                                                                                                \
    }

CROSS_ENTROPY(f32, f32, f32_of_f32, f32_of_f32)
CROSS_ENTROPY(bf16, bf16, f32_of_bf16, bf16_of_f32)

/* What a step is told besides its tensors. */
typedef struct {
    f32 gradient_factor, first, beta2, second, eps, keep; /* first = 1 - beta1, second = 1 - beta2 */
} Step;

static inline void adam_weight(f32 *w, f32 *g, f32 *m, f32 *v, f32 scale, f32 unbias, const Step *step) {
    f32 gradient = *g * step->gradient_factor;
    *g = 0;
    f32 apart = gradient - *m; /* from the nearer end, as torch's lerp: without momentum m is the gradient */
    *m = step->first < 0.5f ? mad(step->first, apart, *m) : mad(step->first - 1, apart, gradient);
    *v = mad(step->second * gradient, gradient, *v * step->beta2);
    *w = *w * step->keep - *m / (sqrtf(*v) * unbias + step->eps) * scale;
}

/* n weights whose entry of the tables is one. */
static inline void adam_run(f32 *restrict w, f32 *restrict g, f32 *restrict m, f32 *restrict v, f32 scale, f32 unbias,
                            const Step *step, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) adam_weight(w + i, g + i, m + i, v + i, scale, unbias, step);
}

/* age: of n / size blocks, or NULL, where entry 0 is everybody's. */
void adam(f32 *restrict w, f32 *restrict g, f32 *restrict m, f32 *restrict v, const uint8_t *restrict age,
          const f32 *restrict step_size, const f32 *restrict correction, const Step *told, int64_t n, int64_t size,
          int threads) {
    const Step step = *told;
    if (age && size == 1) {
#pragma omp parallel for simd schedule(static) num_threads(threads)
        for (int64_t i = 0; i < n; i++)
            adam_weight(w + i, g + i, m + i, v + i, step_size[age[i]], correction[age[i]], &step);
        return;
    }
    int64_t run = age ? size : PORTION;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += run) {
        int entry = age ? age[start / run] : 0;
        adam_run(w + start, g + start, m + start, v + start, step_size[entry], correction[entry], &step,
                 least(run, n - start));
    }
}
