// TargetDrop on a CPU, one sample at a time: where it fits the cache, it is still there when it is read again.
//
// Forward squeezes a sample's channels, ranks them, finds the peaks of the targets and writes the result; so it reads
// the map from memory once and writes it once, as a multiplication by a scalar does. Backward multiplies the gradient
// and zeroes the windows again. The samples are split among threads. All arithmetic is fp32, in an order that depends
// neither on the threads nor on the width of the vectors.
//
// The expensive loops run over fixed lanes or along memory, so that any compiler vectorises them. The arguments are
// addresses and sizes; cpu.py has checked that they belong together.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

// One binary holds the loops for each of these, and uses the widest that the machine has.
#if defined(FOR_EACH_CPU)
#elif defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default"), noinline))
#else
#define FOR_EACH_CPU
#endif
#ifdef _MSC_VER
#define INLINE __forceinline
#else
#define INLINE inline __attribute__((always_inline))
#endif

namespace {

constexpr int kVersion = 1;  // of the functions' arguments; cpu.py checks it
constexpr int kLanes = 32;
constexpr int64_t kUnitsForThreads = 1 << 15;  // below which starting threads costs more than the work

struct bfloat16 {
    uint16_t bits;
};

INLINE float widen(float value) { return value; }

INLINE float widen(bfloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

INLINE void store(float value, float *at) { *at = value; }

INLINE void store(float value, bfloat16 *at) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    at->bits = value != value ? 0x7FC0 : static_cast<uint16_t>(nearest_even);
}

enum Rescale { kChannel, kLayer, kNone };  // in the order of Rescale in __init__.py

// The shape and memory format of one sample's feature map.
struct Map {
    int64_t channels, height, width;
    int channels_last;
    float least;  // values below are raised to it: 0 for a ReLU, -inf for none; NaN stays

    int64_t positions() const { return height * width; }
    int64_t units() const { return channels * positions(); }
    int64_t channel_step() const { return channels_last ? 1 : positions(); }
    int64_t position_step() const { return channels_last ? channels : 1; }
};

struct Window {
    int64_t top, bottom, left, right;  // inclusive; clipped at the border, not shifted

    Window(const Map &map, int64_t centre, int64_t radius)
        : top(std::max<int64_t>(centre / map.width - radius, 0)),
          bottom(std::min(centre / map.width + radius, map.height - 1)),
          left(std::max<int64_t>(centre % map.width - radius, 0)),
          right(std::min(centre % map.width + radius, map.width - 1)) {}

    int64_t area() const { return (bottom - top + 1) * (right - left + 1); }
};

template <typename T>
INLINE float value_of(const Map &map, const T *at) {
    const float value = widen(*at);
    return value < map.least ? map.least : value;
}

// Update the sum and the maximum of each of 32 neighbours in memory by `rows` more, `step` apart; NaN is no maximum.
template <typename T>
INLINE void scan(const Map &map, const T *at, int64_t rows, int64_t step, float *sums, float *maxima) {
    float sum[kLanes], maximum[kLanes];  // local, so that they stay in registers
    std::memcpy(sum, sums, sizeof sum);
    std::memcpy(maximum, maxima, sizeof maximum);
    for (int64_t row = 0; row < rows; row++, at += step)
        for (int lane = 0; lane < kLanes; lane++) {
            const float value = value_of(map, at + lane);
            sum[lane] += value;
            maximum[lane] = value > maximum[lane] ? value : maximum[lane];
        }
    std::memcpy(sums, sum, sizeof sum);
    std::memcpy(maxima, maximum, sizeof maximum);
}

template <typename T>
INLINE void scan_one(const Map &map, const T *at, float *sum, float *maximum) {
    const float value = value_of(map, at);
    *sum += value;
    *maximum = value > *maximum ? value : *maximum;
}

// The mean and the maximum of each channel. Lanes lie along the channels in channels_last, else along the positions.
template <typename T>
INLINE void squeeze_sample(const Map &map, const T *x, float *means, float *maxima) {
    const int64_t channels = map.channels, positions = map.positions();
    std::fill(means, means + channels, 0);
    std::fill(maxima, maxima + channels, -INFINITY);
    if (map.channels_last) {
        int64_t channel = 0;
        for (; channel + kLanes <= channels; channel += kLanes)
            scan(map, x + channel, positions, channels, means + channel, maxima + channel);
        for (int64_t position = 0; position < positions; position++, x += channels)
            for (int64_t left = channel; left < channels; left++)
                scan_one(map, x + left, means + left, maxima + left);
    } else {
        for (int64_t channel = 0; channel < channels; channel++, x += positions) {
            float sum[kLanes], maximum[kLanes];
            std::fill(sum, sum + kLanes, 0);
            std::fill(maximum, maximum + kLanes, -INFINITY);
            scan(map, x, positions / kLanes, kLanes, sum, maximum);
            for (int half = kLanes / 2; half > 0; half /= 2)
                for (int lane = 0; lane < half; lane++) {
                    sum[lane] += sum[lane + half];
                    maximum[lane] = std::max(maximum[lane], maximum[lane + half]);
                }
            for (int64_t left = positions / kLanes * kLanes; left < positions; left++)
                scan_one(map, x + left, sum, maximum);
            means[channel] = sum[0];
            maxima[channel] = maximum[0];
        }
    }
    for (int64_t channel = 0; channel < channels; channel++) means[channel] /= positions;
}

// The first position of a channel's maximum; where nothing is above -inf, the first of all.
template <typename T>
INLINE int32_t peak_of(const Map &map, const T *channel, float maximum) {
    if (maximum == -INFINITY) return 0;
    for (int64_t position = 0; position < map.positions(); position++)
        if (value_of(map, channel + position * map.position_step()) == maximum) return static_cast<int32_t>(position);
    return 0;  // only where another thread writes to the map
}

// `x` times λ, its windows zeroed.
template <typename T>
INLINE void drop_sample(
    const Map &map, const T *x, const int32_t *centres, const float *__restrict scale, int64_t radius, T *__restrict out
) {
    const int64_t positions = map.positions();
    for (int64_t row = 0; row < (map.channels_last ? positions : map.channels); row++) {
        const int64_t length = map.channels_last ? map.channels : positions;
        const T *__restrict from = x + row * length;
        T *__restrict to = out + row * length;
        if (map.channels_last)
            for (int64_t channel = 0; channel < length; channel++)
                store(value_of(map, from + channel) * scale[channel], to + channel);
        else
            for (int64_t position = 0; position < length; position++)
                store(value_of(map, from + position) * scale[row], to + position);
    }
    for (int64_t channel = 0; channel < map.channels; channel++) {
        if (centres[channel] < 0) continue;
        const Window window(map, centres[channel], radius);
        for (int64_t row = window.top; row <= window.bottom; row++)
            for (int64_t col = window.left; col <= window.right; col++)
                store(0, out + channel * map.channel_step() + (row * map.width + col) * map.position_step());
    }
}

// The gradient of relu(x), dropped: zero where the ReLU or a window is. λ ≥ 1 keeps every other unit of `out` above 0.
template <typename T>
INLINE void relu_backward_sample(const Map &map, const T *grad, const T *out, const float *scale, T *result) {
    const int64_t rows = map.channels_last ? map.positions() : map.channels;
    const int64_t length = map.channels_last ? map.channels : map.positions();
    for (int64_t row = 0; row < rows; row++) {
        const int64_t start = row * length;
        for (int64_t at = start; at < start + length; at++) {
            const float product = widen(grad[at]) * scale[map.channels_last ? at - start : row];
            store(widen(out[at]) <= 0 ? 0 : product, result + at);
        }
    }
}

FOR_EACH_CPU void squeeze(const Map &map, const float *x, float *means, float *maxima) {
    squeeze_sample(map, x, means, maxima);
}
FOR_EACH_CPU void squeeze(const Map &map, const bfloat16 *x, float *means, float *maxima) {
    squeeze_sample(map, x, means, maxima);
}
FOR_EACH_CPU void drop(
    const Map &map, const float *x, const int32_t *centres, const float *scale, int64_t radius, float *out
) {
    drop_sample(map, x, centres, scale, radius, out);
}
FOR_EACH_CPU void drop(
    const Map &map, const bfloat16 *x, const int32_t *centres, const float *scale, int64_t radius, bfloat16 *out
) {
    drop_sample(map, x, centres, scale, radius, out);
}
FOR_EACH_CPU void relu_backward(
    const Map &map, const float *grad, const float *out, const float *scale, float *result
) {
    relu_backward_sample(map, grad, out, scale, result);
}
FOR_EACH_CPU void relu_backward(
    const Map &map, const bfloat16 *grad, const bfloat16 *out, const float *scale, bfloat16 *result
) {
    relu_backward_sample(map, grad, out, scale, result);
}

// The attention logits: W2 · relu(W1 · means), or without weights the means. NaN stays.
FOR_EACH_CPU void excite(
    int64_t channels, int64_t hidden, const float *fc1, const float *fc2, const float *means, float *active,
    float *scores
) {
    if (fc1 == nullptr) {
        std::copy(means, means + channels, scores);
        return;
    }
    for (int64_t unit = 0; unit < hidden; unit++, fc1 += channels) {
        float sum[kLanes] = {};
        int64_t channel = 0;
        for (; channel + kLanes <= channels; channel += kLanes)
            for (int lane = 0; lane < kLanes; lane++) sum[lane] += fc1[channel + lane] * means[channel + lane];
        for (; channel < channels; channel++) sum[0] += fc1[channel] * means[channel];
        for (int half = kLanes / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
        active[unit] = sum[0] <= 0 ? 0 : sum[0];
    }
    for (int64_t channel = 0; channel < channels; channel++, fc2 += hidden) {
        float total = 0;
        for (int64_t unit = 0; unit < hidden; unit++) total += fc2[unit] * active[unit];
        scores[channel] = total;
    }
}

// Centres are 0 at the `num_targets` channels with the largest scores, of equal ones the lowest, and -1 elsewhere.
void choose(int64_t channels, const float *scores, int64_t num_targets, int64_t *ranks, int32_t *centres) {
    for (int64_t channel = 0; channel < channels; channel++) {
        const float score = scores[channel] != scores[channel] ? INFINITY : scores[channel] + 0.0f;  // -0 and 0 tie
        int32_t bits;
        std::memcpy(&bits, &score, sizeof bits);
        bits ^= (bits >> 31) & 0x7FFFFFFF;  // of a negative number, all bits but the sign fall as it rises
        ranks[channel] = ranks[channels + channel] = static_cast<int64_t>(bits) * (int64_t{1} << 32) - channel;
    }
    int64_t *least = ranks + channels - num_targets;
    std::nth_element(ranks, least, ranks + channels);
    for (int64_t channel = 0; channel < channels; channel++)
        centres[channel] = ranks[channels + channel] >= *least ? 0 : -1;
}

float ratio_to_kept(int64_t num_units, int64_t num_dropped) {
    // 1 where nothing is kept.
    return num_dropped == num_units ? 1 : static_cast<float>(num_units) / static_cast<float>(num_units - num_dropped);
}

// λ of each channel; returns the number of units in the windows.
int64_t scales(const Map &map, const int32_t *centres, int64_t radius, Rescale rescale, float *scale) {
    int64_t num_dropped = 0;
    for (int64_t channel = 0; channel < map.channels; channel++) {
        const int64_t area = centres[channel] < 0 ? 0 : Window(map, centres[channel], radius).area();
        scale[channel] = rescale == kChannel ? ratio_to_kept(map.positions(), area) : 1;
        num_dropped += area;
    }
    if (rescale == kLayer) std::fill(scale, scale + map.channels, ratio_to_kept(map.units(), num_dropped));
    return num_dropped;
}

struct Scratch {
    std::vector<float> means, maxima, active, scores;
    std::vector<int64_t> ranks;

    Scratch(int64_t channels, int64_t hidden)
        : means(channels), maxima(channels), active(hidden), scores(channels), ranks(2 * channels) {}
};

struct Forward {
    Map map;
    int64_t num_samples, num_targets, radius, hidden;
    Rescale rescale;
    const float *given_scores, *fc1, *fc2;
    int32_t *centres;
    float *scale;
    int64_t *num_dropped;
};

template <typename T>
void forward(const Forward &job, const T *x, T *out, int threads) {
    const Map &map = job.map;
    std::vector<Scratch> scratches(threads, Scratch(map.channels, job.hidden));
    int64_t num_dropped = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : num_dropped)
    for (int64_t sample = 0; sample < job.num_samples; sample++) {
#ifdef _OPENMP
        Scratch &own = scratches[omp_get_thread_num()];
#else
        Scratch &own = scratches[0];
#endif
        const T *from = x + sample * map.units();
        int32_t *centres = job.centres + sample * map.channels;
        float *scale = job.scale + sample * map.channels;
        const float *scores = own.scores.data();
        squeeze(map, from, own.means.data(), own.maxima.data());
        if (job.given_scores != nullptr)
            scores = job.given_scores + sample * map.channels;
        else
            excite(
                map.channels, job.hidden, job.fc1, job.fc2, own.means.data(), own.active.data(), own.scores.data()
            );
        choose(map.channels, scores, job.num_targets, own.ranks.data(), centres);
        for (int64_t channel = 0; channel < map.channels; channel++)
            if (centres[channel] == 0)
                centres[channel] = peak_of(map, from + channel * map.channel_step(), own.maxima[channel]);
        num_dropped += scales(map, centres, job.radius, job.rescale, scale);
        drop(map, from, centres, scale, job.radius, out + sample * map.units());
    }
    *job.num_dropped = num_dropped;
}

template <typename T>
void backward(
    const Map &map, int64_t num_samples, const T *grad, const int32_t *centres, const T *relu_out, const float *scale,
    int64_t radius, T *result, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (int64_t sample = 0; sample < num_samples; sample++) {
        const int64_t at = sample * map.units(), channel = sample * map.channels;
        if (relu_out != nullptr)
            relu_backward(map, grad + at, relu_out + at, scale + channel, result + at);
        else
            drop(map, grad + at, centres + channel, scale + channel, radius, result + at);
    }
}

template <typename T>
T *pointer(unsigned long long address) {
    return reinterpret_cast<T *>(static_cast<uintptr_t>(address));
}

int threads_for(const Map &map, int64_t num_samples, int threads) {
    return map.units() * num_samples < kUnitsForThreads ? 1 : threads;
}

PyObject *python_forward(PyObject *, PyObject *arguments) {
    int is_bfloat16, channels_last, relu, rescale, threads;
    long long n, c, h, w, num_targets, radius, hidden;
    unsigned long long x, scores, fc1, fc2, out, centres, scale, num_dropped;
    if (!PyArg_ParseTuple(
            arguments, "(LLLL)pppLLLiiKKKKKKKK", &n, &c, &h, &w, &is_bfloat16, &channels_last, &relu, &num_targets,
            &radius, &hidden, &rescale, &threads, &x, &scores, &fc1, &fc2, &out, &centres, &scale, &num_dropped
        ))
        return nullptr;
    const Forward job = {
        {c, h, w, channels_last, relu ? 0.0f : -INFINITY},
        n,
        num_targets,
        radius,
        hidden,
        static_cast<Rescale>(rescale),
        pointer<float>(scores),
        pointer<float>(fc1),
        pointer<float>(fc2),
        pointer<int32_t>(centres),
        pointer<float>(scale),
        pointer<int64_t>(num_dropped),
    };
    threads = threads_for(job.map, n, threads);
    bool out_of_memory = false;
    Py_BEGIN_ALLOW_THREADS;
    try {
        if (is_bfloat16)
            forward(job, pointer<bfloat16>(x), pointer<bfloat16>(out), threads);
        else
            forward(job, pointer<float>(x), pointer<float>(out), threads);
    } catch (const std::bad_alloc &) {
        out_of_memory = true;
    }
    Py_END_ALLOW_THREADS;
    if (out_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *python_backward(PyObject *, PyObject *arguments) {
    int is_bfloat16, channels_last, threads;
    long long n, c, h, w, radius;
    unsigned long long grad, centres, relu_out, scale, result;
    if (!PyArg_ParseTuple(
            arguments, "(LLLL)ppLiKKKKK", &n, &c, &h, &w, &is_bfloat16, &channels_last, &radius, &threads, &grad,
            &centres, &relu_out, &scale, &result
        ))
        return nullptr;
    const Map map = {c, h, w, channels_last, -INFINITY};
    threads = threads_for(map, n, threads);
    const auto *at = pointer<int32_t>(centres);
    const auto *factors = pointer<float>(scale);
    Py_BEGIN_ALLOW_THREADS;
    if (is_bfloat16)
        backward(
            map, n, pointer<bfloat16>(grad), at, pointer<bfloat16>(relu_out), factors, radius,
            pointer<bfloat16>(result), threads
        );
    else
        backward(
            map, n, pointer<float>(grad), at, pointer<float>(relu_out), factors, radius, pointer<float>(result), threads
        );
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"forward", python_forward, METH_VARARGS, "Write the dropped map, the centres, λ and the number of units dropped."},
    {"backward", python_backward, METH_VARARGS, "Write the gradient, dropped likewise."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_cpu", "TargetDrop on a CPU: see cpu.py.", -1, methods,
    nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__cpu() {
    PyObject *module = PyModule_Create(&definition);
    if (module != nullptr && PyModule_AddIntConstant(module, "VERSION", kVersion) < 0) Py_CLEAR(module);
    return module;
}
