// Groups as the native code knows them, and the plans of the three convolutions (engine.h has the derivation).
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <stdexcept>

#include "butterfly.h"
#include "engine.h"

namespace gconv {

void require(bool condition, const char* op, const std::string& what) {
    if (!condition) throw std::invalid_argument(std::string(op) + ": " + what);
}

namespace {

// A group's irreps as a butterfly computes them: rows [coefficient][plane], a complex irrep as two rows.
struct Pattern {
    Butterfly in, out;
    int planes;
    std::vector<int> rows;
};

template <Butterfly in, Butterfly out>
Pattern make_pattern() {
    constexpr int planes = kPlanes<in>;
    Pattern pattern{in, out, planes, std::vector<int>(planes * planes)};
    for (int i = 0; i < planes; ++i) {
        int x[planes] = {}, y[kCoefficients<in>];
        x[i] = 1;
        forward<in>(x, y);
        if constexpr (in == Butterfly::c4_in) y[3] += y[2];  // im - re
        for (int c = 0; c < planes; ++c) pattern.rows[c * planes + i] = y[c];
    }
    return pattern;
}

// Finds the order of planes in which the rows of `matrix` are those of the pattern: row r is row place[r]. The rows of
// an irrep of dimension 2, four or two of them from `first`, keep their order.
bool match(const Pattern& pattern, const std::vector<int8_t>& matrix, int first, std::vector<int>& order,
           std::vector<int>& place) {
    const int n = pattern.planes;
    order.resize(n);
    place.resize(n);
    std::iota(order.begin(), order.end(), 0);
    do {
        bool all = true;
        for (int c = 0; c < n && all; ++c) {
            all = false;
            for (int r = 0; r < n && !all; ++r) {
                all = true;
                for (int i = 0; i < n && all; ++i) all = pattern.rows[c * n + i] == matrix[r * n + order[i]];
                if (all) place[r] = c;
            }
        }
        for (int r = first + 1; r < n && all; ++r) all = place[r] == place[r - 1] + 1;
        if (all) return true;
    } while (std::next_permutation(order.begin(), order.end()));
    return false;
}

std::vector<int> counted(int n) {
    std::vector<int> numbers(n);
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
}

int inverse(const Group& group, int element) {
    int other = 0;
    while (group.product[element * group.order + other] != 0) ++other;
    return other;
}

// Appends the products of an irrep: one, or three for a complex number a + i b = rho[0][0] + i rho[1][0].
void add_blocks(const Group& group, const Irrep& irrep, Plan& plan, int first) {
    const int n = group.order, d = irrep.dim;
    const bool complex = irrep.columns < d;
    const auto entry = [&](int s, int i, int k) { return irrep.matrices[(s * d + i) * d + k]; };
    const double scale = static_cast<double>(d) / n;
    if (!complex) {
        plan.blocks.push_back({d, d, irrep.columns, first, first});
        plan.filter_scale.push_back(scale);
        for (int i = 0; i < d; ++i)
            for (int k = 0; k < d; ++k)
                for (int s = 0; s < n; ++s) plan.filter_matrix.push_back(entry(s, i, k));
        return;
    }
    for (int term = 0; term < 3; ++term) {  // a + b, a, b: butterfly.h
        plan.blocks.push_back({1, 1, 1, first + term, first + term});
        plan.filter_scale.push_back(scale);
        for (int s = 0; s < n; ++s)
            plan.filter_matrix.push_back(
                static_cast<int8_t>((term < 2 ? entry(s, 0, 0) : 0) + (term != 1 ? entry(s, 1, 0) : 0)));
    }
}

}  // namespace

Plan make_group_plan(const Group& group) {
    const int n = group.order;
    Plan plan{};
    plan.op = "group_conv2d";
    plan.group = &group;
    plan.filter_planes = n;
    plan.filter_source = plan.filter_elements = counted(n);
    std::vector<int8_t> matrix;  // [irrep, column j, row k][h] = rho(h)[j][k], the independent rows
    int last = 0;                // row at which an irrep of dimension 2, if any, starts
    bool complex = false;
    for (const Irrep& irrep : group.irreps) {
        const int d = irrep.dim, rows = irrep.columns * d;
        require(last == 0 || d == 1, "Group", "at most one irrep of dimension 2 is known, the last one");
        require(d == 1 || &irrep == &group.irreps.back(), "Group", "the irrep of dimension 2 must be the last one");
        if (d > 1) last = static_cast<int>(matrix.size()) / n;
        complex = complex || irrep.columns < d;
        for (int row = 0; row < rows; ++row)
            for (int h = 0; h < n; ++h) matrix.push_back(irrep.matrices[(h * d + row / d) * d + row % d]);
    }
    for (int a = 0; a < n; ++a)
        for (int b = 0; b < a; ++b) {
            int dot = 0;
            for (int h = 0; h < n; ++h) dot += matrix[a * n + h] * matrix[b * n + h];
            require(dot == 0, "Group", "irreps must be irreducible and inequivalent");
        }
    std::vector<int> place;  // of the rows among the butterfly's coefficients
    if (n == 1) {
        plan.in = plan.out = {Butterfly::identity, 1, 1};
        plan.elements = place = {0};
    }
    for (const Pattern& pattern :
         {make_pattern<Butterfly::c2, Butterfly::c2>(), make_pattern<Butterfly::c4_in, Butterfly::c4_out>(),
          make_pattern<Butterfly::d2, Butterfly::d2>(), make_pattern<Butterfly::d4, Butterfly::d4>()}) {
        if (pattern.planes != n || complex != (pattern.in != pattern.out) ||
            !match(pattern, matrix, last ? last : n, plan.elements, place))
            continue;
        plan.in = {pattern.in, n, n + complex};
        plan.out = {pattern.out, n, n + complex};
        break;
    }
    require(plan.in.planes == n, "Group", "must be one of C1, C2, C4, D1, D2, D4 with these irreps");
    int row = 0;
    for (const Irrep& irrep : group.irreps) {
        add_blocks(group, irrep, plan, place[row]);
        row += irrep.columns * irrep.dim;
    }
    plan.source = plan.target = plan.elements;
    return plan;
}

Plan make_group_adjoint_plan(const Group& group) {
    Plan plan = make_group_plan(group);
    plan.op = "group_conv2d_adjoint";
    plan.adjoint = true;
    for (int s = 0; s < group.order; ++s) plan.filter_source[s] = inverse(group, s);
    plan.filter_elements.assign(group.order, 0);
    return plan;
}

Plan make_lifting_plan(const Group& group) {
    const int n = group.order;
    Plan plan{};
    plan.op = "lifting_conv2d";
    plan.group = &group;
    plan.in = {Butterfly::identity, 1, 1};
    plan.out = {Butterfly::identity, n, n};
    plan.elements = plan.source = {0};
    plan.target = counted(n);
    plan.blocks = {{1, n, 1, 0, 0}};
    plan.filter_planes = 1;
    plan.filter_source.assign(n, 0);
    for (int s = 0; s < n; ++s) {
        plan.filter_elements.push_back(inverse(group, s));
        for (int t = 0; t < n; ++t) plan.filter_matrix.push_back(s == t);
    }
    plan.filter_scale = {1.0};
    return plan;
}

Plan make_lifting_adjoint_plan(const Group& group) {
    Plan plan{};
    plan.op = "lifting_conv2d_adjoint";
    plan.group = &group;
    const Butterfly sums[] = {Butterfly::identity, Butterfly::sum2, Butterfly::sum4, Butterfly::sum8};
    for (int i = 0; i < 4; ++i)
        if (group.order == 1 << i) plan.in = {sums[i], group.order, 1};
    plan.out = {Butterfly::identity, 1, 1};
    plan.elements = plan.source = counted(group.order);
    plan.target = {0};
    plan.blocks = {{1, 1, 1, 0, 0}};
    plan.filter_planes = 1;
    plan.adjoint = true;
    plan.filter_source = plan.filter_elements = {0};
    plan.filter_matrix = {1};
    plan.filter_scale = {1.0};
    return plan;
}

Group::Group(int order, std::vector<int32_t> product, std::vector<int32_t> action, std::vector<Irrep> irreps)
    : order(order), product(std::move(product)), action(std::move(action)), irreps(std::move(irreps)) {
    const int n = order;
    require(n >= 1 && n <= kMaxOrder, "Group", "order must be in 1..8, got " + std::to_string(n));
    require(this->product.size() == static_cast<size_t>(n) * n, "Group", "product must be (G, G)");
    require(this->action.size() == static_cast<size_t>(n) * 4, "Group", "action must be (G, 2, 2)");
    for (int a = 0; a < n; ++a) {
        uint32_t row = 0, column = 0;
        for (int b = 0; b < n; ++b)
            for (const int32_t c : {this->product[a * n + b], this->product[b * n + a]})
                require(c >= 0 && c < n, "Group", "product must have entries in 0..G-1");
        for (int b = 0; b < n; ++b) {
            row |= 1u << this->product[a * n + b];
            column |= 1u << this->product[b * n + a];
        }
        require(row == (1u << n) - 1 && column == (1u << n) - 1, "Group", "product must be a Latin square");
        const int32_t* m = &this->action[a * 4];
        const int rows = std::abs(m[0]) + std::abs(m[1]), columns = std::abs(m[0]) + std::abs(m[2]);
        require(rows == 1 && columns == 1 && std::abs(m[3]) == std::abs(m[0]), "Group",
                "action must be signed permutations of (row, column)");
    }
    int sum = 0;
    for (const Irrep& irrep : this->irreps) {
        require(irrep.dim >= 1 && irrep.columns >= 1 && irrep.columns <= irrep.dim && irrep.dim <= n, "Group",
                "irreps must have 1 <= columns <= dim <= G");
        require(irrep.matrices.size() == static_cast<size_t>(n) * irrep.dim * irrep.dim, "Group",
                "irreps must have one dim x dim matrix per element");
        require(std::all_of(irrep.matrices.begin(), irrep.matrices.end(), [](int8_t m) { return m >= -1 && m <= 1; }),
                "Group", "irreps must have entries 0, 1 or -1");
        sum += irrep.dim * irrep.columns;
    }
    require(sum == n, "Group", "the sum of dim * columns over the irreps must be the order");
    group_plan = std::make_unique<Plan>(make_group_plan(*this));
    group_adjoint_plan = std::make_unique<Plan>(make_group_adjoint_plan(*this));
    lifting_plan = std::make_unique<Plan>(make_lifting_plan(*this));
    lifting_adjoint_plan = std::make_unique<Plan>(make_lifting_adjoint_plan(*this));
}

Group::~Group() = default;

}  // namespace gconv
