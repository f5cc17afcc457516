// A group that maps the pixel grid onto itself, by its name, at run time: what the host code needs to plan with.
#pragma once

#include <stdexcept>
#include <string>

#include "layout.h"

namespace gconv::cuda {

// Element f n + r turns r / n of a circle counter-clockwise, then flips the rows if f = 1.
struct Lattice {
    std::string name;
    int order = 0;
    int matrices[kMaxOrder][4] = {};  // (row, column) -> (m[0] row + m[1] column, m[2] row + m[3] column)
    int inverses[kMaxOrder] = {};

    // The tap of a size x size window where an element puts `tap`; in halves of a pixel from the window's centre.
    int moved(int tap, int element, int size) const {
        const int* m = matrices[element];
        const int centre = size - 1, row = 2 * (tap / size) - centre, column = 2 * (tap % size) - centre;
        return (m[0] * row + m[1] * column + centre) / 2 * size + (m[2] * row + m[3] * column + centre) / 2;
    }

    Offsets offsets(int size) const {
        Offsets offsets = {};
        for (int tap = 0; tap < size * size; ++tap)
            for (int h = 0; h < order; ++h) {
                offsets.row[tap][h] = static_cast<int8_t>(moved(tap, h, size) / size);
                offsets.column[tap][h] = static_cast<int8_t>(moved(tap, h, size) % size);
            }
        return offsets;
    }
};

// "C1", "C2", "C4", "D1", "D2" or "D4"; throws std::invalid_argument for another name.
inline Lattice lattice(const std::string& name) {
    const bool named = name.size() == 2 && (name[0] == 'C' || name[0] == 'D');
    const int rotations = named ? name[1] - '0' : 0;
    if (rotations != 1 && rotations != 2 && rotations != 4)
        throw std::invalid_argument("lattice: group must be C1, C2, C4, D1, D2 or D4, got " + name);
    Lattice group;
    group.name = name;
    group.order = name[0] == 'D' ? 2 * rotations : rotations;
    for (int element = 0; element < group.order; ++element) {
        int* m = group.matrices[element];
        m[0] = m[3] = 1;
        for (int quarter = 0; quarter < element % rotations * (4 / rotations); ++quarter) {
            const int before[4] = {m[0], m[1], m[2], m[3]};
            m[0] = -before[2];
            m[1] = -before[3];
            m[2] = before[0];
            m[3] = before[1];
        }
        const bool flips = element >= rotations;
        if (flips) {
            m[0] = -m[0];
            m[1] = -m[1];
        }
        group.inverses[element] = flips ? element : (rotations - element) % rotations;
    }
    return group;
}

}  // namespace gconv::cuda
