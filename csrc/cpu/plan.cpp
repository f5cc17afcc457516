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

template <Butterfly kind>
Transform named_transform() {
    constexpr int planes = kPlanes<kind>;
    Transform transform{kind, planes, planes, {}};
    for (int i = 0; i < planes; ++i) {
        int x[planes] = {}, y[planes];
        x[i] = 1;
        forward<kind>(x, y);
        for (int c = 0; c < planes; ++c) transform.matrix[c * planes + i] = static_cast<int8_t>(y[c]);
    }
    return transform;
}

Transform identity_transform(int planes) {
    Transform transform{Butterfly::identity, planes, planes, {}};
    for (int i = 0; i < planes; ++i) transform.matrix[i * planes + i] = 1;
    return transform;
}

// Finds the order of planes in which the rows of `matrix` are, in some order, the rows of `named`.
bool match(const Transform& named, const std::vector<int8_t>& matrix, std::vector<int>& order, std::vector<int>& rows) {
    const int n = named.planes;
    order.resize(n);
    rows.resize(n);
    std::iota(order.begin(), order.end(), 0);
    do {
        bool found = true;
        for (int c = 0; c < n && found; ++c) {
            found = false;
            for (int r = 0; r < n && !found; ++r) {
                found = true;
                for (int i = 0; i < n && found; ++i) found = named.matrix[c * n + i] == matrix[r * n + order[i]];
                if (found) rows[c] = r;
            }
        }
        if (found) return true;
    } while (std::next_permutation(order.begin(), order.end()));
    return false;
}

}  // namespace

Plan make_group_plan(const Group& group) {
    const int n = group.order;
    Plan plan{};
    plan.group = &group;
    plan.filter_planes = n;
    std::vector<int8_t> matrix(n * n);  // [first + j * dim + k][h] = rho(h)[j][k]
    int first = 0;
    for (const Irrep& irrep : group.irreps) {
        const int d = irrep.dim;
        plan.blocks.push_back({d, irrep.columns, first});
        plan.filter_scale.push_back(static_cast<double>(d) / n);
        for (int j = 0; j < irrep.columns; ++j)
            for (int k = 0; k < d; ++k)
                for (int h = 0; h < n; ++h) matrix[(first + j * d + k) * n + h] = irrep.matrices[(h * d + j) * d + k];
        for (int i = 0; i < d; ++i)
            for (int k = 0; k < d; ++k)
                for (int s = 0; s < n; ++s) plan.filter_matrix.push_back(irrep.matrices[(s * d + i) * d + k]);
        first += irrep.columns * d;
    }
    for (int a = 0; a < n; ++a)
        for (int b = 0; b < a; ++b) {
            int dot = 0;
            for (int h = 0; h < n; ++h) dot += matrix[a * n + h] * matrix[b * n + h];
            require(dot == 0, "Group", "irreps must be irreducible and inequivalent");
        }
    std::vector<Transform> candidates;
    if (n == 1) candidates = {identity_transform(1)};
    if (n == 2) candidates = {named_transform<Butterfly::c2>()};
    if (n == 4) candidates = {named_transform<Butterfly::c4>(), named_transform<Butterfly::d2>()};
    if (n == 8) candidates = {named_transform<Butterfly::d4>()};
    for (const Transform& candidate : candidates)
        if (match(candidate, matrix, plan.elements, plan.in_coefficient)) {
            plan.in = candidate;
            break;
        }
    if (plan.in.planes == 0) {
        plan.in = {Butterfly::general, n, n, {}};
        std::copy(matrix.begin(), matrix.end(), plan.in.matrix);
        plan.elements.resize(n);
        std::iota(plan.elements.begin(), plan.elements.end(), 0);
        plan.in_coefficient = plan.elements;
    }
    plan.out = plan.in;
    plan.out_coefficient = plan.in_coefficient;
    plan.source = plan.target = plan.elements;
    return plan;
}

Plan make_lifting_plan(const Group& group) {
    const int n = group.order;
    Plan plan{};
    plan.group = &group;
    plan.in = plan.out = identity_transform(n);
    plan.elements.resize(n);
    std::iota(plan.elements.begin(), plan.elements.end(), 0);
    plan.source.assign(n, 0);
    plan.target = plan.in_coefficient = plan.out_coefficient = plan.elements;
    plan.blocks = {{1, n, 0}};
    plan.filter_planes = 1;
    plan.filter_matrix = {1};
    plan.filter_scale = {1.0};
    return plan;
}

Plan make_lifting_adjoint_plan(const Group& group) {
    Plan plan = make_lifting_plan(group);
    const int n = group.order;
    plan.in = {Butterfly::general, n, 1, {}};
    std::fill_n(plan.in.matrix, n, int8_t{1});
    plan.out = identity_transform(1);
    plan.source = plan.elements;
    plan.target = plan.in_coefficient = plan.out_coefficient = {0};
    plan.blocks = {{1, 1, 0}};
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
    lifting_plan = std::make_unique<Plan>(make_lifting_plan(*this));
    lifting_adjoint_plan = std::make_unique<Plan>(make_lifting_adjoint_plan(*this));
}

Group::~Group() = default;

}  // namespace gconv
