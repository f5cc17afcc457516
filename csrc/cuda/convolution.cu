// Plans a convolution's passes on the host: tiles, buffers, grids and workspaces, and starts their kernels.
#include <algorithm>
#include <climits>
#include <memory>

#include "dispatch.h"
#include "filter.h"
#include "images.h"
#include "instances.h"
#include "lattice.h"
#include "ops.h"

namespace gconv::cuda {

namespace {

constexpr int kLargestSize = 5;
constexpr int kLargestPadding = 1 << 20;
constexpr int64_t kAlignment = 1024;

int64_t aligned(int64_t bytes) { return cdiv(bytes, kAlignment) * kAlignment; }

int to_int(int64_t number, const char* name) {
    if (number < 1 || number > INT_MAX)
        throw std::invalid_argument(std::string("convolution: ") + name + " must be in 1..2^31 - 1, got " +
                                    std::to_string(number));
    return static_cast<int>(number);
}

// A map over the group, or an image, of which a pass reads or writes every plane.
struct Side {
    int channels;  // of one coset
    int cosets, elements;
    int height, width;

    int planes() const { return cosets * elements; }
    // Blocks of so many channels, coset by coset.
    int tiles(int block) const { return to_int(cosets * cdiv(channels, block), "tiles of channels"); }
};

// Buffers of a block, as many as its shared memory holds and the pipeline has a use for; none if it holds too few.
struct Buffers {
    int halos = 0, stages = 0;
    int64_t needed = 0;  // bytes of the fewest
    int bytes = 0;

    Buffers(const Device& device, int64_t halo_bytes, int64_t tile_bytes, int tiles_per_halo, int64_t exchange_bytes) {
        constexpr int most_stages = 8, good_stages = 4;
        needed = kBarrierBytes + std::max(halo_bytes + tile_bytes, exchange_bytes);
        if (needed > device.shared_bytes) return;
        const int64_t room = device.shared_bytes - kBarrierBytes;
        // One more halo pays while tiles of the second operand still come well ahead of their use.
        for (halos = tiles_per_halo < good_stages ? 4 : 2; halos > 1; --halos)
            if (halos * halo_bytes + (halos > 2 ? good_stages : 2) * tile_bytes <= room) break;
        stages = static_cast<int>(std::min<int64_t>(most_stages, (room - halos * halo_bytes) / tile_bytes));
        bytes = static_cast<int>(kBarrierBytes + std::max(halos * halo_bytes + stages * tile_bytes, exchange_bytes));
    }
};

// The shape of a tile, of those whose rows are whole groups of 8 pixels, that covers an output with the fewest tiles
// and then the fewest pixels of halo. The first shape's halo is the smallest: another must fit as well, and must save a
// fifth of the tiles if only one of its halos fits, whose copies nothing overlaps.
template <typename BuffersOf>
Halo plan_halo(const Side& in, const Side& out, int batch, int size, int padding, Type type,
               const BuffersOf& buffers_of) {
    constexpr PixelTile shapes[] = {{1, 8, 16}, {1, 16, 8}, {1, 4, 32}, {2, 8, 8}};
    Halo best = {};
    int64_t least = -1;
    for (const PixelTile& tile : shapes) {
        Halo halo = {};
        halo.batch = batch;
        halo.channels = in.channels;
        halo.planes = in.planes();
        halo.height = in.height;
        halo.width = in.width;
        halo.tile = tile;
        halo.tile_rows = static_cast<int>(cdiv(out.height, tile.height));
        halo.tile_columns = static_cast<int>(cdiv(out.width, tile.width));
        halo.rows = tile.height + size - 1;
        halo.columns = tile.width + size - 1;
        halo.pixels = (tile.images * halo.rows * halo.columns + 1) / 2 * 2;
        halo.padding = padding;
        halo.aligned = in.channels * type_bytes(type) % kChunkBytes == 0;
        const int64_t tiles = cdiv(batch, tile.images) * halo.tile_rows * halo.tile_columns;
        const int halos = buffers_of(halo).halos;
        const int64_t cost = tiles * (halos > 1 ? 4 : 5) * 4096 + halo.pixels;  // a halo has fewer than 4096 pixels
        if (least < 0 || (halos > 0 && cost < least)) {
            least = cost;
            best = halo;
        }
    }
    return best;
}

int pixel_tiles(const Halo& halo) {
    return to_int(cdiv(halo.batch, halo.tile.images) * halo.tile_rows * halo.tile_columns, "tiles of pixels");
}

void set_slots(int16_t (&slots)[kMaxTaps][kMaxOrder], const Lattice& group, int size, const Halo& halo) {
    const Offsets offsets = group.offsets(size);
    for (int tap = 0; tap < size * size; ++tap)
        for (int h = 0; h < group.order; ++h)
            slots[tap][h] = static_cast<int16_t>(offsets.row[tap][h] * halo.columns + offsets.column[tap][h]);
}

// What the passes share. The kernels' group is C1 for lifting, one element at a time.
struct Problem {
    Lattice lattice;
    std::string kernels;  // the name of the kernels' group
    int order;            // its
    bool lifting, tf32;
    Type type;
    int cosets, batch, size;
    Side x, out;
    int padding;
    Device device;

    bool hopper() const { return device.capability == 90 && has_hopper(order, type); }
    int taps() const { return size * size; }
    int slice() const { return kRowBytes / type_bytes(type); }
    template <typename Body>
    void with_kernels(const Body& body) const {
        with_group(kernels, body);
    }
};

// The forward pass or the input's gradient.
struct ConvolutionPlan {
    Instance instance;
    FilterPlan filter;
    ConvolutionParameters parameters = {};
    Grid grid = {};
    Buffers buffers;  // last: planning them fills the others in

    ConvolutionPlan(const Problem& problem, bool adjoint)
        : ConvolutionPlan(problem, adjoint ? problem.out : problem.x, adjoint ? problem.x : problem.out, adjoint) {}

    ConvolutionPlan(const Problem& problem, const Side& in, const Side& to, bool adjoint)
        : instance{problem.hopper(), problem.type, columns_of(problem.order, problem.hopper(), to.channels)},
          filter(plan_filter(problem.lattice, problem.lifting, problem.cosets, problem.x.channels, problem.out.channels,
                             problem.size, adjoint, instance.columns)),
          buffers(plan(problem, in, to, adjoint)) {}

    int64_t workspace() const { return aligned(packed_bytes(instance.type, filter)); }

    void start(const Problem& problem, const void* x, const void* weight, const void* bias, void* out, void* workspace,
               Stream stream, const Epilogue& epilogue = {}) const {
        pack_filter(instance.type, filter, weight, workspace, stream);
        ConvolutionParameters p = parameters;
        p.x = x;
        p.filter = workspace;
        p.bias = bias;
        p.out = out;
        p.epilogue = epilogue;
        if (epilogue.pooling != Pooling::none) p.out_planes = 1;
        p.halo.aligned = p.halo.aligned && reinterpret_cast<uintptr_t>(x) % kChunkBytes == 0;
        problem.with_kernels([&](auto group) { start_group_conv2d<decltype(group)>(instance, p, grid, stream); });
    }

  private:
    Buffers plan(const Problem& problem, const Side& in, const Side& to, bool adjoint) {
        ConvolutionParameters& p = parameters;
        const int tile_bytes = problem.order * instance.columns * kRowBytes;
        const auto buffers_of = [&](const Halo& halo) {
            return Buffers(problem.device, int64_t{problem.order} * halo.plane_bytes(), tile_bytes, problem.taps(), 0);
        };
        p.halo = plan_halo(in, to, problem.batch, problem.size,
                           adjoint ? problem.size - 1 - problem.padding : problem.padding, problem.type, buffers_of);
        p.out_height = to.height;
        p.out_width = to.width;
        p.out_planes = to.planes();
        p.c_out = to.channels;
        p.in_elements = problem.lifting ? in.elements : 1;
        p.out_elements = problem.lifting ? to.elements : 1;
        p.in_cosets = in.cosets;
        p.out_cosets = to.cosets;
        p.out_tiles = to.tiles(instance.columns);
        p.taps = problem.taps();
        p.exact = !problem.tf32;
        set_slots(p.slots, problem.lattice, problem.size, p.halo);
        const Buffers buffers = buffers_of(p.halo);
        p.halos = buffers.halos;
        p.stages = buffers.stages;
        const int cluster = instance.hopper ? Hopper::cluster : Ampere::cluster;
        p.items = to_int(cdiv(pixel_tiles(p.halo), cluster) * p.out_tiles * p.out_elements, "tiles");
        const int64_t clusters = std::min<int64_t>(p.items, std::max(1, problem.device.multiprocessors / cluster));
        grid = {clusters * cluster, kThreads, buffers.bytes, cluster};
        return buffers;
    }
};

// Parts of the pixels that blocks of the filter's gradient sum over, each for every job: those with which the device is
// done first, if a wave takes as long as a block; the fewest of several, since every part writes its sums.
int64_t splits(int64_t jobs, int64_t units, int multiprocessors) {
    int64_t best = 1, least = 0;
    for (int64_t parts = 1; parts <= std::clamp<int64_t>(4 * multiprocessors / jobs, 1, units); ++parts) {
        const int64_t time = cdiv(jobs * parts, multiprocessors) * cdiv(units, parts);
        if (parts > 1 && time >= least) continue;
        best = parts;
        least = time;
    }
    return best;
}

struct WeightGradPlan {
    Instance instance;
    FilterPlan filter;
    WeightGradParameters parameters = {};
    Map grad_out = {};
    Grid grid = {};
    Buffers buffers;  // last: planning them fills the others in

    explicit WeightGradPlan(const Problem& problem)
        : instance{problem.hopper(), problem.type, wide_columns(problem.order, problem.hopper())},
          filter(plan_filter(problem.lattice, problem.lifting, problem.cosets, problem.x.channels, problem.out.channels,
                             problem.size, false, instance.columns)),
          buffers(plan(problem)) {}

    int64_t image_bytes(const Problem& problem) const {
        return aligned(images_bytes(instance.type, problem.lattice, grad_out, problem.cosets, instance.columns,
                                    parameters.halo.tile));
    }
    int64_t workspace(const Problem& problem) const {
        return image_bytes(problem) + aligned(parameters.splits * sums_bytes(instance.type, filter));
    }

    void start(const Problem& problem, const void* x, const void* grad_out, void* grad_weight, void* workspace,
               Stream stream) const {
        WeightGradParameters p = parameters;
        coefficient_images(instance.type, problem.lattice, problem.lifting, this->grad_out, problem.cosets,
                           instance.columns, p.halo.tile, grad_out, workspace, stream);
        p.x = x;
        p.images = workspace;
        p.sums = reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + image_bytes(problem));
        p.halo.aligned = p.halo.aligned && reinterpret_cast<uintptr_t>(x) % kChunkBytes == 0;
        problem.with_kernels([&](auto group) { start_weight_grad<decltype(group)>(instance, p, grid, stream); });
        unpack_gradient(instance.type, filter, p.sums, p.splits, grad_weight, stream);
    }

  private:
    Buffers plan(const Problem& problem) {
        WeightGradParameters& p = parameters;
        const int tile_bytes = problem.order * instance.columns * kRowBytes;
        const int exchange_bytes = 128 * problem.order * instance.columns / 2 * static_cast<int>(sizeof(float));
        const auto buffers_of = [&](const Halo& halo) {
            return Buffers(problem.device, int64_t{problem.order} * halo.plane_bytes(), tile_bytes,
                           kTilePixels / problem.slice(), exchange_bytes);
        };
        p.halo =
            plan_halo(problem.x, problem.out, problem.batch, problem.size, problem.padding, problem.type, buffers_of);
        p.elements = problem.lifting ? problem.lattice.order : 1;
        p.in_cosets = problem.x.cosets;
        p.pixel_tiles = pixel_tiles(p.halo);
        p.in_tiles = problem.x.tiles(problem.slice());
        p.out_tiles = problem.out.tiles(instance.columns);
        p.taps = problem.taps();
        p.exact = !problem.tf32;
        set_slots(p.slots, problem.lattice, problem.size, p.halo);
        const Side& out = problem.out;
        grad_out = {problem.batch, out.channels, out.planes(), out.height, out.width};
        const Buffers buffers = buffers_of(p.halo);
        p.halos = buffers.halos;
        p.stages = buffers.stages;
        const int cluster = instance.hopper ? Hopper::cluster : Ampere::cluster;
        int blocks_of_taps = 0;
        with_type(problem.type, [&](auto number) { blocks_of_taps = tap_blocks<decltype(number)>(p.taps); });
        const int64_t jobs = cdiv(int64_t{blocks_of_taps} * p.in_tiles, cluster) * cluster * p.out_tiles;
        const int64_t units = int64_t{p.elements} * p.pixel_tiles;
        to_int(units, "tiles of pixels and elements");
        p.units_per_split = static_cast<int>(cdiv(units, splits(jobs, units, problem.device.multiprocessors)));
        p.splits = static_cast<int>(cdiv(units, p.units_per_split));
        to_int(int64_t{p.splits} * p.out_tiles * p.in_tiles * p.taps, "tiles of sums");
        grid = {jobs * p.splits, kThreads, buffers.bytes, cluster};
        return buffers;
    }
};

}  // namespace

struct Convolution::Plans {
    Problem problem;
    ConvolutionPlan forward, input_grad;
    WeightGradPlan weight_grad;

    explicit Plans(const Problem& of) : problem(of), forward(of, false), input_grad(of, true), weight_grad(of) {}

    int64_t needed() const {
        return std::max({forward.buffers.needed, input_grad.buffers.needed, weight_grad.buffers.needed});
    }
};

Convolution::Convolution(const std::string& group, bool lifting, Type type, int64_t cosets, int64_t batch, int64_t c_in,
                         int64_t c_out, int64_t height, int64_t width, int64_t size, int64_t padding,
                         const Device& device, bool tf32) {
    if (size < 1 || size > kLargestSize)
        throw std::invalid_argument("convolution: size must be in 1..5, got " + std::to_string(size));
    if (padding < 0 || padding > kLargestPadding)
        throw std::invalid_argument("convolution: padding must be in 0.." + std::to_string(kLargestPadding) + ", got " +
                                    std::to_string(padding));
    Problem problem = {};
    problem.lattice = lattice(group);
    problem.kernels = lifting ? "C1" : group;
    problem.order = lifting ? 1 : problem.lattice.order;
    problem.lifting = lifting;
    problem.tf32 = tf32;
    problem.type = type;
    problem.cosets = to_int(cosets, "cosets");
    problem.batch = to_int(batch, "batch");
    problem.size = static_cast<int>(size);
    problem.padding = static_cast<int>(padding);
    problem.device = device;
    const int elements = problem.lattice.order, m = problem.cosets;
    problem.x = {to_int(c_in, "c_in"), lifting ? 1 : m, lifting ? 1 : elements, to_int(height, "height"),
                 to_int(width, "width")};
    problem.out = {to_int(c_out, "c_out"), m, elements, to_int(height + 2 * padding - size + 1, "output height"),
                   to_int(width + 2 * padding - size + 1, "output width")};
    plans_ = std::make_unique<const Plans>(problem);
}

Convolution::~Convolution() = default;

std::string Convolution::missing() const {
    const Device& device = plans_->problem.device;
    if (device.capability < 80) return "it needs compute capability 8.0";
    if (plans_->needed() <= device.shared_bytes) return "";
    const std::string size = std::to_string(plans_->problem.size);
    return "a " + size + " x " + size + " filter of " + plans_->problem.lattice.name + " needs " +
           std::to_string(plans_->needed()) + " bytes of shared memory, and the device has " +
           std::to_string(device.shared_bytes);
}

int64_t Convolution::forward_workspace() const { return plans_->forward.workspace(); }
int64_t Convolution::input_grad_workspace() const { return plans_->input_grad.workspace(); }
int64_t Convolution::weight_grad_workspace() const { return plans_->weight_grad.workspace(plans_->problem); }

void Convolution::forward(const void* x, const void* weight, const void* bias, void* out, void* workspace,
                          Stream stream, const Epilogue& epilogue) const {
    if (epilogue.pooling != Pooling::none && (plans_->problem.lifting || plans_->problem.cosets > 1))
        throw std::invalid_argument("convolution: pooling must be none for lifting and for cosets above 1");
    plans_->forward.start(plans_->problem, x, weight, bias, out, workspace, stream, epilogue);
}
void Convolution::input_grad(const void* grad_out, const void* weight, void* grad_x, void* workspace,
                             Stream stream) const {
    plans_->input_grad.start(plans_->problem, grad_out, weight, nullptr, grad_x, workspace, stream);
}
void Convolution::weight_grad(const void* x, const void* grad_out, void* grad_weight, void* workspace,
                              Stream stream) const {
    plans_->weight_grad.start(plans_->problem, x, grad_out, grad_weight, workspace, stream);
}

}  // namespace gconv::cuda
